"""Look up what options refer to: models, files, benchmarks and the device.

Nothing is downloaded and no model is loaded; torch is not needed.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from sod.config import model_path
from sod.config.recipes import maker_of, read_about, read_recipe
from sod.datasets.published import SETS
from sod.datasets.rows import count_rows
from sod.errors import ModelError, OptionError
from sod.model.hub import name_on_hub, refuse_gguf
from sod.model.lengths import positions_in
from sod.planning.measured import MeasuredShape
from sod.planning.memory import ITEMSIZE, AnyShape, Shape


@dataclass(frozen=True, slots=True)
class Found:
    """The known facts about a model or a file."""

    name: str
    where: str
    """Its place, or the place it will be downloaded from, in words."""
    shape: AnyShape | None = None
    rows: int | None = None
    first: str = ""
    """What the user must do to make it exist; "" if nothing. A command to type begins with `sod `."""
    config: Path | None = None
    """The config.json of a local model."""
    unmeasured: str = ""
    """Why its memory could not be measured; "" if it was not tried."""

    @property
    def positions(self) -> int | None:
        """Number of positions of the model, or None if it is not known."""
        if self.shape is not None:
            return self.shape.positions
        return None if self.config is None else positions_in(self.config)

    @property
    def is_unsized(self) -> bool:
        """Return whether this is a local model of a type without known sizes."""
        return self.config is not None and self.shape is None


# Models


def _qwen3(width: int, layers: int, heads: int, feed_forward: int, *, tied: bool, positions: int = 40_960) -> Shape:
    return Shape(
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        feed_forward=feed_forward,
        vocabulary=151_936,
        tied=tied,
        positions=positions,
    )


ON_HUB = {
    "Qwen/Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
    "Qwen/Qwen3-4B": _qwen3(2560, 36, 32, 9728, tied=True),
    "Qwen/Qwen3-4B-Instruct-2507": _qwen3(2560, 36, 32, 9728, tied=True, positions=262_144),
    "Qwen/Qwen3-8B": _qwen3(4096, 36, 32, 12_288, tied=False),
    "Qwen/Qwen3-14B": _qwen3(5120, 40, 40, 17_408, tied=False),
    "youngzhong/SOD-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "youngzhong/SOD-1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
    "youngzhong/SOD-GRPO_teacher-4B": _qwen3(2560, 36, 32, 9728, tied=True),
}
"""Shapes of models whose config.json need not be downloaded. Source: their pages on the hub and their papers."""
TOKENIZER = "tokenizer_config.json"
HEAD_TWICE = {"Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"}
"""Models whose published files also hold the tied head."""


def find_model(model: Path) -> Found:
    """Return the facts about a directory, a run, the future run of a recipe, or a name on the hub.

    Raise ModelError for a GGUF file, or if its config.json is damaged.
    """
    refuse_gguf(model)
    for folder in [model, *_checkpoints(model)]:
        if (folder / "config.json").is_file():
            size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            config = folder / "config.json"
            return Found(str(folder), f"found, {as_bytes(size)} of weights", _shape(config), config=config)
    if recipe := maker_of(model):
        options = read_recipe(recipe)
        start = Path(model_path(options.get("model") or options.get("student") or model))
        shape = None if start == model else find_model(start).shape
        return Found(str(model), "does not exist yet", shape, first=f"sod {read_about(recipe).command} {recipe}")
    if not model.exists() and (name := name_on_hub(model)):
        return _on_hub(name["repo"], name["revision"])
    return Found(str(model), "holds no model", first=f"Put a model into {model}, or give another one.")


def check_model(found: Found) -> None:
    """Raise the ModelError of the run if config.json already shows it.

    Only models of types without known sizes and models with a sliding window are checked, because Transformers and PyTorch
    take seconds to import.
    """
    if found.config is None:
        return
    if found.is_unsized or json.loads(found.config.read_text(encoding="utf-8")).get("use_sliding_window"):
        from sod.model.loading import check_config

        check_config(found.config.parent)


def check_tokenizer(found: Found) -> None:
    """Raise the ModelError of the run if a local folder holds a model without a tokenizer."""
    if found.config is not None and find_tokenizer(Path(found.name)) is None:
        from sod.model.loading import load_tokenizer

        load_tokenizer(found.config.parent)


def check_weights(found: Found) -> None:
    """Raise the ModelError of the run if a local folder lacks weights, or has others than its config.json and tokenizer need.

    Only the headers of the files are read. NaN and infinity are found when the model is loaded.
    """
    if found.config is not None and Path(found.name) == found.config.parent:
        from sod.model.loading import check_weight_files

        check_weight_files(found.config.parent)


def measure(found: Found) -> Found:
    """Return the facts with the measured sizes of a local model of a type without arithmetic. PyTorch is imported for it."""
    if not found.is_unsized or found.config is None:
        return found
    shape = MeasuredShape.of(found.config)
    return replace(found, unmeasured=shape) if isinstance(shape, str) else replace(found, shape=shape)


def why_no_shape(found: Found, whose: str) -> str:
    """Return why the sizes of a model are not known, in words."""
    if not found.is_unsized or found.config is None:
        return f"the {whose} has no local config.json, which holds its shape"
    kind = json.loads(found.config.read_text(encoding="utf-8")).get("model_type", "not named")
    why = found.unmeasured or "it was not measured"
    return f"the {whose}'s type is {kind}, and {why}. Loading it checks whether it can be used"


def find_tokenizer(model: Path) -> Path | None:
    """Return the folder of a model's local tokenizer: in a directory, a run, or the hub's cache. None if there is none."""
    folders = [model, *_checkpoints(model)]
    if not model.exists() and (name := name_on_hub(model)):
        folders = [Path(cached).parent for cached in [_cached(name["repo"], TOKENIZER, name["revision"])] if cached]
    return next((folder for folder in folders if (folder / TOKENIZER).is_file()), None)


def _checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, newest first. Their content is not verified, as that takes as long as to read them."""
    places = [place for place in (run / "checkpoints").glob("update-*") if place.name[7:].isdecimal()]
    return sorted(places, key=lambda place: int(place.name[7:]), reverse=True)


def _shape(config: Path) -> Shape | None:
    try:
        return Shape.of(json.loads(config.read_text(encoding="utf-8")))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{config} is damaged or not a model's configuration: {error}. Download the model again, or give another one."
        ) from error


def _cached(repo: str, file: str, revision: str | None) -> str | None:
    """Return the path of a file in the hub's cache, or None."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(repo, file, revision=revision)
    except HFValidationError:  # not a valid name on the hub
        return None
    return cached if isinstance(cached, str) else None


def _on_hub(repo: str, revision: str | None) -> Found:
    if cached := _cached(repo, "config.json", revision):
        return Found(repo, "found in the hub's cache", _shape(Path(cached)), config=Path(cached))
    shape = ON_HUB.get(repo)
    if shape is None:
        return Found(repo, "not found; if it is a name on the hub, it will be downloaded (size unknown)")
    parameters = shape.parameters + (shape.embedding if repo in HEAD_TWICE else 0)
    return Found(repo, f"will be downloaded: about {as_bytes(ITEMSIZE['bfloat16'] * parameters)}", shape)


# Data


def find_file(path: Path, *, demonstrations: bool = False) -> Found:
    """Return the facts about a file of problems or demonstrations. Raise DataError if it exists and cannot be used."""
    if path.exists():
        rows = count_rows(path, demonstrations=demonstrations)
        return Found(str(path), f"found, {rows:,} {'conversations' if demonstrations else 'problems'}", rows=rows)
    published = SETS.get(path.stem)
    if published is None:
        return Found(str(path), "does not exist", first=f"Create {path} with the columns of docs/data.md.")
    where = "does not exist yet" + (f", {published.rows:,} rows as published" if published.rows else "")
    return Found(str(path), where, rows=published.rows, first=f"sod data fetch {path.stem} --out {path.parent}")


def find_benchmark(name: str, data_dir: Path) -> Found:
    """Return the facts about a benchmark, by name, or a file. Raise DataError if a file exists and cannot be used."""
    known = SETS.get(name)
    path = data_dir / f"{name}.jsonl" if known else Path(name)
    if path.exists() or (known is None and path.suffix):
        return find_file(path)
    if known is None:
        return Found(
            name, "neither a file nor a benchmark", first=f"Create {name}, or give a name from `sod data list`."
        )
    where = f"will be downloaded from {known.repo}"
    where += f", {as_bytes(known.bytes)}" if known.bytes else ""
    where += f", {known.rows:,} problems" if known.rows else ""
    where += "; its terms must be accepted there first" if known.gated else ""
    return Found(name, where, rows=known.rows)


# The device

PEAK = {
    "B200": 2250,
    "H100": 989,
    "H200": 989,
    "H20": 148,
    "A100": 312,
    "A800": 312,
    "A40": 150,
    "L40S": 362,
    "L20": 120,
    "L4": 121,
    "5090": 209,
    "4090": 165,
    "3090": 71,
}
"""Dense bfloat16 TFLOP/s. Source: NVIDIA's data sheets."""
BANDWIDTH = {
    "B200": 8000,
    "H200": 4800,
    "H100": 3350,
    "H20": 4000,
    "A100-40GB": 1555,
    "A100": 2039,
    "A800": 2039,
    "A40": 696,
    "L40S": 864,
    "L20": 864,
    "L4": 300,
    "5090": 1792,
    "4090": 1008,
    "3090": 936,
}
"""GB/s of a GPU's memory. Source: NVIDIA's data sheets, of SXM modules where there are several."""
LINK = {"B200": 900, "H200": 450, "H100": 450, "H20": 450, "A100": 300, "A800": 200}
"""GB/s between GPUs of a machine in one direction, by NVLink. Source: NVIDIA's data sheets."""
PCIE = 25
"""GB/s assumed without NVLink: PCIe 4.0 x16 less a fifth."""
MEMORY = {
    "B200": 183_359,
    "H200": 143_771,
    "H100": 81_559,
    "H20": 97_871,
    "A100": 81_920,
    "A100-40GB": 40_960,
    "A800": 81_920,
    "A40": 46_068,
    "L40S": 46_068,
    "L20": 46_068,
    "L4": 23_034,
    "5090": 32_607,
    "4090": 24_564,
    "3090": 24_576,
}
"""MiB of a GPU, without the part for error correction. Source: published outputs of `nvidia-smi`."""


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    memory: int
    """Bytes."""
    is_gpu: bool

    @property
    def peak(self) -> int | None:
        """Return the TFLOP/s of a GPU in `PEAK`, else None."""
        return self._listed(PEAK)

    @property
    def bandwidth(self) -> int | None:
        """Return the GB/s of a GPU's memory in `BANDWIDTH`, else None."""
        return self._listed(BANDWIDTH)

    @property
    def link(self) -> int:
        """Return the GB/s to another GPU of the machine."""
        return self._listed(LINK) or PCIE

    def _listed(self, table: dict[str, int]) -> int | None:
        return next((value for gpu, value in table.items() if re.search(rf"\b{gpu}\b", self.name)), None)


def imagined_gpus(text: str) -> tuple[int, Device]:
    """Return the number of GPUs and one of them, for text such as 8xH100, 2x24GB or 4090.

    GB is read as GiB, as GPU makers use it. "0" returns 0 and this computer's memory. Raise OptionError for other text.
    """
    if text.strip() == "0":
        return 0, _computer()
    count, times, kind = re.fullmatch(r"(?:(\d+) *(x) *)?(.*)", text.strip(), re.IGNORECASE).groups()  # type: ignore[union-attr]
    number = int(count) if times else 1
    if number and (size := re.fullmatch(r"(\d+) *G(?:i?B)?", kind, re.IGNORECASE)) and int(size[1]):
        return number, Device("GPU", int(size[1]) << 30, is_gpu=True)
    names = {name.upper(): name for name in MEMORY}
    if number and kind.upper() in names:
        name = names[kind.upper()]
        return number, Device(name, MEMORY[name] << 20, is_gpu=True)
    near = get_close_matches(kind.upper(), names, n=1)
    raise OptionError(
        f"--gpus {text!r} is not a number of GPUs and a kind, such as 8xH100, 2x24GB or 4090, or 0 for this computer's memory"
        + (
            f"; did you mean {names[near[0]]}?"
            if near
            else f". Kinds: {', '.join(MEMORY)}, or a memory size such as 48GB."
        )
    )


def find_device(wanted: str) -> Device | None:
    """Return the device that `network.device` selects on this machine, or None if there is no such device."""
    gpus = [] if wanted == "cpu" else _gpus()
    given = wanted.partition(":")[2] or "0"
    number = int(given) if given.isdecimal() else len(gpus)
    if number < len(gpus):
        return gpus[number]
    return _computer() if wanted in ("auto", "cpu") else None


def _computer() -> Device:
    return Device("this computer's memory", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), is_gpu=False)


def _gpus() -> list[Device]:
    """Return the GPUs that `nvidia-smi` lists, in the order of CUDA_VISIBLE_DEVICES."""
    tool, visible = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if tool is None or visible == "":
        return []
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    query += [f"--id={visible}"] if visible else []
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
    except (subprocess.SubprocessError, OSError):  # the driver is not loaded, or hangs
        return []
    rows = [line.rpartition(",") for line in listed.stdout.splitlines() if line.strip()]
    return [Device(name.strip(), int(mib) << 20, is_gpu=True) for name, _, mib in rows]


# Numbers in words


def brief(number: float) -> str:
    """Return the number with two significant digits, or without decimals from 10 on: 0.75, 4.0, 24, 1,532."""
    return f"{number:,.0f}" if number >= 9.95 else f"{number:#.2g}"


def as_bytes(size: float) -> str:
    """Return a size with its unit, such as 4.0 GiB."""
    units = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20))
    unit, scale = next((pair for pair in units if size >= pair[1]), ("KiB", 2**10))
    return f"{brief(size / scale)} {unit}"


def as_count(number: float) -> str:
    for word, scale in (("trillion", 1e12), ("billion", 1e9), ("million", 1e6)):
        if number >= scale:
            return f"{number / scale:.3g} {word}"
    return f"{number:,.0f}"


def as_time(seconds: float) -> str:
    for word, scale in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * scale:
            return f"{brief(seconds / scale)} {word}"
    return f"{brief(seconds)} seconds"
