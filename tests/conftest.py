"""What many tests share: the lab's tokenizer, small models, small files. One thread, so that numbers repeat.

Nothing heavy is imported before a fixture needs it: the process that hands out the tests to others needs none of it.
"""

import json
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported; for the processes that tests start, too

import pytest

from sod.console.logs import show_logs
from sod.processes.imports import uncollected
from sod.types import Group, Piece, Problem, Trajectory, Verdict

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

    from sod.chat.format import ChatFormat

show_logs()  # as a command does

LONGEST = (
    "ranks", "benchmarks", "shapes", "validation", "examples", "loops", "rewards_math", "arena", "evaluate", "diagnose",
    "families", "lora", "export", "compare", "sandbox_fusion", "cli", "teachers_served_training", "guided",
    "evaluate_served", "rewards_code", "docs", "lab", "report_browser", "policy", "adapters_verl",
)  # fmt: skip
"""Files of tests that take longest, in this order. They start first, so that no processor waits for one at the end."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    with uncollected(freeze=True):
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="session")
def teacher() -> Path:
    """The folder of the lab's trained teacher, which ships with the project."""
    from sod.lab.make import TEACHER_FOLDER

    return TEACHER_FOLDER


@pytest.fixture(scope="session")
def tokenizer(teacher: Path) -> "PreTrainedTokenizerBase":
    """The lab's tokenizer."""
    from sod.model.loading import load_tokenizer

    return load_tokenizer(teacher)


@pytest.fixture(scope="session")
def chat(tokenizer: "PreTrainedTokenizerBase") -> "ChatFormat":
    """The lab's chat format."""
    from sod.chat.format import ChatFormat

    return ChatFormat(tokenizer)


@pytest.fixture(scope="session")
def untrained(tokenizer: "PreTrainedTokenizerBase", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with random weights and the lab's tokenizer."""
    from sod.lab.models import Size, save_new_model

    folder = tmp_path_factory.mktemp("untrained")
    size = Size(width=16, layers=1, heads=2, kv_heads=1, feed_forward=32, head_dim=8)
    save_new_model(size, tokenizer, 0, folder)
    return folder


@pytest.fixture(scope="session")
def trembling(teacher: Path, tokenizer: "PreTrainedTokenizerBase") -> Callable[[Path, float], None]:
    """Write the lab's teacher with a tremor to a folder: it calls the tool, and errs."""
    import torch

    from sod.config import ModelOptions
    from sod.model.loading import load_model

    def write(folder: Path, tremor: float) -> None:
        model = load_model(teacher, ModelOptions(device="cpu"))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= 1 + tremor * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return write


@pytest.fixture(scope="session")
def random_model() -> "Callable[..., Qwen3ForCausalLM]":
    """Make a tiny model whose next token depends sharply on what came before. Token 0 pads, token 1 ends a turn."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from sod.model.attention import ATTENTION

    def make(seed: int = 0, *, vocabulary: int = 24, dtype: "torch.dtype" = torch.float32) -> "Qwen3ForCausalLM":
        config = Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            head_dim=8,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=0.4,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            attn_implementation=ATTENTION,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Qwen3ForCausalLM(config).eval().to(dtype)

    return make


@pytest.fixture(scope="module")
def warm_commands() -> Iterator[None]:
    """Start warm what the project itself starts as `sys.executable -m ...`: `tests/warm.py`."""
    from warm import warm_python

    from sod.processes.warm import servers

    with warm_python() as python, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(python))
        yield
        for server in servers.values():  # its commands start others with this executable, which is now gone
            server.close()
        servers.clear()


@pytest.fixture(scope="session")
def jsonl(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[dict[str, Any]]], Path]:
    """Write rows to a new .jsonl file."""

    def write(rows: Sequence[dict[str, Any]]) -> Path:
        path = tmp_path_factory.mktemp("data") / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture(scope="session")
def problem_file(jsonl: Callable[[Sequence[dict[str, Any]]], Path]) -> Path:
    """Eight of the lab's problems."""
    from sod.lab.make import problems as lab_problems

    tasks, _ = lab_problems(8, 0, seed=7)
    return jsonl([{"id": f"p{i}", "prompt": task.question, "answer": str(task.answer)} for i, task in enumerate(tasks)])


@pytest.fixture(scope="session")
def small_update(
    trembling: Callable[[Path, float], None], problem_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Options of one update: two problems with two attempts each. The student is the lab's teacher with a small tremor."""
    from sod.lab import settings

    student = tmp_path_factory.mktemp("student")
    trembling(student, 0.05)
    return {
        "student": student,
        "data": problem_file,
        "updates": 1,
        "rollout": settings.ROLLOUT | {"problems": 2, "group": 2, "max_tokens": 60},
        "learn": {"lr": 1e-3, "minibatches": 1},
        "reward": settings.REWARD,
        "tool": settings.TOOL,
        "sandbox": {"workers": 2},
    }


@pytest.fixture(scope="session")
def trajectory() -> Callable[..., Trajectory]:
    """Make a finished trajectory out of (author, tokens) pairs, or one that only has an answer."""

    def make(
        *pieces: tuple[str, Sequence[int]],
        problem: str = "p",
        sample: int = 0,
        answer: str | None = None,
        gold: str = "1",
        correct: bool | None = None,
        graded: bool = True,
        reason: str = "",
        **fields: Any,
    ) -> Trajectory:
        right = answer == gold if correct is None else correct
        outcome = ("right" if right else "wrong") if graded else "ungraded"
        return Trajectory(
            problem=Problem(id=problem, messages=(), answer=gold),
            sample=sample,
            pieces=tuple(Piece(author, tuple(tokens)) for author, tokens in pieces),
            stop="answered",
            final_text="",
            verdict=Verdict(outcome=outcome, answer=answer, reason=reason),
            **{"reward": 1.0 if right else -1.0} | fields,
        )

    return make


@pytest.fixture(scope="session")
def random_groups(trajectory: Callable[..., Trajectory]) -> Callable[..., list[Group]]:
    """Make groups of trajectories with random tokens and lengths: prompt, turn, observation, turn, ..."""
    import torch

    def make(groups: int, size: int, *, seed: int = 0, vocabulary: int = 24, longest: int = 9) -> list[Group]:
        generator = torch.Generator().manual_seed(seed)

        def number(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (), generator=generator))

        def tokens() -> list[int]:
            return [number(0, vocabulary - 1) for _ in range(number(1, longest))]

        def one(group: int, sample: int) -> Trajectory:
            turns = [piece for _ in range(number(0, 3)) for piece in (("student", tokens()), ("tool", tokens()))]
            pieces = [("prompt", tokens()), *turns, ("student", tokens())]
            return trajectory(*pieces, problem=f"p{group}", sample=sample, correct=number(0, 1) == 1)

        return [
            Group(Problem(id=f"p{i}", messages=(), answer="1"), [one(i, j) for j in range(size)]) for i in range(groups)
        ]

    return make
