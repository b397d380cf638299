"""List the published benchmarks and training sets, with repository, pinned revision and checks of identity.

Revisions are commits on the Hugging Face hub. Hashes are those of the published file. Both are taken from public projects that
pin them. Unknown values are None. A `fingerprint` is a hash of the problems, not of the file. It is equal for all copies of a
benchmark (`sod.datasets.identity`).
"""

from dataclasses import dataclass
from typing import Literal

Reader = Literal["columns", "gpqa", "livecodebench"]
"""What converts a published file: the names of its columns, or a reader of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """A file of a repository on the hub."""

    path: str
    sha256: str | None = None
    blob: str | None = None
    """Git's hash of the file, if `sha256` is unknown."""
    bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A benchmark or training set as published by its authors."""

    name: str
    what: str
    kind: str
    """Kind of all problems (`sod.rewards.kinds`); empty if each row has its own, and for demonstrations."""
    role: Literal["benchmark", "training"]
    repo: str
    revision: str
    files: tuple[PublishedFile, ...]
    rows: int | None
    """Number of rows after conversion. For training sets, it was counted in one copy."""
    license: str
    content: Literal["problems", "demonstrations"] = "problems"
    reader: Reader = "columns"
    gated: bool = False
    """Whether the hub requires consent to terms before a download."""
    private: bool = False
    """Whether its authors ask users not to publish examples."""
    integers: bool = False
    """Whether every answer is an integer, in any notation."""
    since: str = ""
    """First date of contest problems (YYYY-MM-DD). Earlier ones are left out. Default: none are."""
    fingerprint: str = ""
    """SHA-256 of the sorted golds or ids; see `sod.datasets.identity`."""
    notes: tuple[str, ...] = ()
    """Notes to print beside every result."""
    defects: tuple[str, ...] = ()
    """Errors in the text of the pinned file. Other copies may not have them."""

    @property
    def bytes(self) -> int | None:
        """Size of the download; None if unknown."""
        sizes = [file.bytes for file in self.files if file.bytes is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None


LIVECODEBENCH = PublishedFile(path="test6.jsonl")

_ALL = (
    Published(
        name="aime2024",
        what="AIME 2024, I and II",
        kind="math",
        role="benchmark",
        repo="HuggingFaceH4/aime_2024",
        revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        files=(
            PublishedFile(
                path="data/train-00000-of-00001.parquet",
                sha256="26139847601a5037c237d5928b195e7260ca8074cf4f264b794af42847f79ccf",
            ),
        ),
        rows=30,
        license="none stated; problems: MAA",
        integers=True,
        fingerprint="26b2e319e14bdec51519f4cbb0a47ad57a80751c03b39c937514c67994cea9f2",
    ),
    Published(
        name="aime2025",
        what="AIME 2025, I and II",
        kind="math",
        role="benchmark",
        repo="math-ai/aime25",
        revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
        files=(
            PublishedFile(path="test.jsonl", sha256="b4e273c02d3e7fe1b74b59eae768fc8230bfb0f79539890cb56f4361caac0331"),
        ),
        rows=30,
        license="none stated; problems: MAA",
        integers=True,
        fingerprint="a0239316151158f3806ad95fec73b0b2189857a41968a29ef2f334aaef4fd367",
        defects=(
            "this copy's II-15 (answer 240) lacks the condition that the variables are positive, so it has no minimum",
            "this copy's I-11 (answer 259) lacks the word that the function is periodic, and a line break between its cases",
        ),
    ),
    Published(
        name="math500",
        what="MATH-500, 500 problems of MATH's test split",
        kind="math",
        role="benchmark",
        repo="HuggingFaceH4/MATH-500",
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        files=(
            PublishedFile(path="test.jsonl", sha256="35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132"),
        ),
        rows=500,
        license="MIT (MATH, prm800k)",
        fingerprint="793f372ed1bfdc8fb790661d13b77a39880262416399d13b7a76a6318310b03c",
    ),
    Published(
        name="gsm8k",
        what="GSM8K, test split",
        kind="math",
        role="benchmark",
        repo="openai/gsm8k",
        revision="cc7b047b6e5bb11b4f1af84efc572db110a51b3c",
        files=(PublishedFile(path="main/test-00000-of-00001.parquet"),),
        rows=1319,
        license="MIT",
        integers=True,
        fingerprint="a7866b369c33070b46c7faf00f7134260446239c9d2110444411847e433c79c7",
    ),
    Published(
        name="gpqa_diamond",
        what="GPQA-Diamond, graduate-level science",
        kind="choice",
        reader="gpqa",
        role="benchmark",
        repo="Idavidrein/gpqa",
        revision="633f5ee89ab8ad4522a9f850766b73f62147ffdd",
        files=(
            PublishedFile(path="gpqa_diamond.csv", blob="7589e3e467d69a1dceb126a60c4108d6d4f1d166", bytes=1_373_492),
        ),
        rows=198,
        license="CC-BY-4.0",
        gated=True,
        private=True,
        notes=("choices in one fixed order for each question, the right one evenly from A to D",),
    ),
    Published(
        name="livecodebench_v6",
        what="LiveCodeBench, problems added in version 6",
        kind="code",
        reader="livecodebench",
        role="benchmark",
        repo="livecodebench/code_generation_lite",
        revision="0fe84c3912ea0c4d4a78037083943e8f0c4dd505",
        files=(LIVECODEBENCH,),
        rows=175,
        license="CC (dataset card)",
        fingerprint="466f69464a4da2a9c9f504fd46a9a8f36d209cd381fce8f5cc80a1fc087426ac",
    ),
    Published(
        name="livecodebench_v6_2502",
        what="the same, from February 2025 (the paper's window)",
        kind="code",
        reader="livecodebench",
        role="benchmark",
        repo="livecodebench/code_generation_lite",
        revision="0fe84c3912ea0c4d4a78037083943e8f0c4dd505",
        files=(LIVECODEBENCH,),
        rows=131,
        license="CC (dataset card)",
        since="2025-02-01",
        fingerprint="fac42de28db669efbaf3939699233b4a32816cca93e0fe98c59882b622ceccc4",
    ),
    Published(
        name="dapo_math_17k",
        what="DAPO-Math-17k, competition problems with integer answers",
        kind="math",
        role="training",
        repo="BytedTsinghua-SIA/DAPO-Math-17k",
        revision="65877096c24ffa7abc4e4fa5edb95cf3413a5674",
        files=(
            PublishedFile(
                path="data/dapo-math-17k.parquet",
                sha256="534375d6bb8630d22ab46a56e11f2ffec1d288d8f7d04099bc82d68948705941",
                bytes=299_363_855,
            ),
        ),
        rows=17_398,
        license="apache-2.0",
        integers=True,
        notes=("the published file has every problem about 100 times; each is kept once",),
    ),
    # The names of the next two files come from third-party scripts that load them.
    Published(
        name="open_agentrl_30k",
        what="the paper's problems for RL: mathematics, science, code",
        kind="",
        role="training",
        repo="Gen-Verse/Open-AgentRL-30K",
        revision="660eca7324319cd69a57738228a5e8e336f3bb40",
        files=(PublishedFile(path="Open-AgentRL-30K.parquet"),),
        rows=None,
        license="see its page",
    ),
    Published(
        name="open_agentrl_sft_3k",
        what="the paper's demonstrations for the cold start",
        kind="",
        content="demonstrations",
        role="training",
        repo="Gen-Verse/Open-AgentRL-SFT-3K",
        revision="29f7c779329730068f425ef9995f50440ff9a3f2",
        files=(PublishedFile(path="full_sft_3k_shuffled_v4.parquet"),),
        rows=None,
        license="see its page",
    ),
)

SETS: dict[str, Published] = {published.name: published for published in _ALL}
BENCHMARKS = tuple(name for name, published in SETS.items() if published.role == "benchmark")
