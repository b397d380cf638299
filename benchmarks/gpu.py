"""One update of SOD on one GPU, phase by phase: Qwen3-0.6B's shape learns from Qwen3-4B's. Beside it vLLM alone, and TRL.

    python benchmarks/gpu.py --out gpu.json    # in less than ten minutes on an H100, by estimate
    python benchmarks/gpu.py --turn 2272 --parts vllm vllm_alone --seconds 1800    # trajectories of 20,480 tokens
    python benchmarks/gpu.py --smoke           # the same code on a CPU

Parts: this project with the engines vllm and hf; vllm_alone and trl are peers (gpu_peers.py), if they are installed. A part that
fails, or takes too long, is noted in `failures`; the others go on. The JSON is written after every part.

Nothing is downloaded: weights are drawn here, in bfloat16, with Qwen3's vocabulary of 151,936. For each phase: seconds, tokens a
second, the share of the GPU's peak that the model's own arithmetic makes up (MFU), and the peak memory beside the prediction of
`sod.planning.memory`. The arithmetic is `sod.planning.memory.forward_operations`. Where the peak is not known, one large matrix
product measures it. Those recomputed for checkpointing are not counted; the head's are counted for observations too, which do
not reach it.

A network of random weights never ends a turn and calls no tool. So every turn is sampled for real, by the engine, up to a given
length, and then an observation of a given length is appended: trajectories all as long as each other, that never wait. Costs of a
token and of memory are those of a real run. Not so: how tokens are spread over trajectories (an engine is slower while few are
left), the time of tools and judges, and whatever the text itself decides, such as step weights.

vLLM's memory is its own, `engine.memory_share` of the GPU, and not in the figures of this process.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from gpu_peers import MARK
from gpu_work import DTYPE, PHASES, STUDENT, TEACHER, Lengths, Meter, Setting, small
from measure import Row, keep, pairwise_ratios, parse, parser, row, show, within
from table import table

from sod.config import EngineOptions, LearnOptions
from sod.engines.opening import open_engine
from sod.model.devices import prepare_device
from sod.planning.inventory import as_bytes, find_device
from sod.processes.concurrency import Runner
from sod.runs.peaks import take_peak_mb

PARTS = {"vllm": "vllm", "vllm_alone": "vllm", "trl": "trl", "hf": None}
"""Every part, in the order of their turn, with the package that it needs."""
MEMORY_SHARE = 0.4
"""Of vLLM, with and without this project."""


def matrix_rate(device: torch.device, size: int) -> float:
    """Operations a second of one large matrix product, the best of five."""
    a = torch.randn(size, size, device=device, dtype=getattr(torch, DTYPE))
    meter = Meter(device)
    for _ in range(6):
        with meter.phase("product"):
            torch.mm(a, a)
    return 2 * size**3 / min(meter.seconds["product"][1:])


# What is told


@dataclass(frozen=True, slots=True)
class Limit:
    """What arithmetic is held against."""

    rate: float
    """Operations a second."""
    words: str


def limit_of(device: torch.device, *, miniature: bool) -> Limit:
    known = find_device(str(device))
    if known and known.peak:
        return Limit(known.peak * 1e12, f"{known.peak} TFLOP/s, the peak of {known.name}")
    rate = matrix_rate(device, 1024 if miniature else 8192)
    return Limit(rate, f"{rate / 1e12:.3g} TFLOP/s, what a large matrix product reaches here")


def rows_of(setting: Setting, meter: Meter, engine: str, limit: Limit) -> list[Row]:
    """The whole update, then each phase: its time against the arithmetic, its memory against the prediction."""
    lengths, operations, memory = setting.lengths, setting.operations(), setting.memory(engine)
    updates = [sum(seconds) for seconds in zip(*(meter.seconds[phase] for phase in PHASES), strict=True)]
    shares = ", ".join(f"{phase} {median(meter.seconds[phase]) / median(updates):.0%}" for phase in PHASES)
    made = [
        row(
            f"an update with {engine}, {lengths.trajectories} trajectories of {lengths.whole:,} tokens",
            f"{lengths.sampled / median(updates):,.0f} sampled tokens/s, {show(updates)}: {shares}",
            f"{sum(operations.values()) / 1e12:.3g} TFLOP at {limit.words}",
            [sum(operations.values()) / seconds / limit.rate for seconds in updates],
        )
    ]
    for phase, of_phase in operations.items():
        tokens, seconds = setting.tokens(phase), meter.seconds[phase]
        made.append(
            row(
                f"{engine}: {phase}",
                f"{tokens / median(seconds):,.0f} tokens/s, {show(seconds)}",
                f"{of_phase / 1e12:.3g} TFLOP at that rate",
                [of_phase / each / limit.rate for each in seconds],
            )
        )
    for phase, peak in meter.peak.items():
        ours, against = as_bytes(median(peak)), f"as predicted: {as_bytes(memory[phase])}"
        made.append(row(f"{engine}: {phase}, peak memory", ours, against, [each / memory[phase] for each in peak]))
    return made


def details_of(setting: Setting, meter: Meter, engine: str) -> dict[str, Row]:
    """Every measurement, by phase."""
    operations, memory = setting.operations(), setting.memory(engine)
    return {
        phase: {
            "seconds": meter.seconds[phase],
            "tokens": setting.tokens(phase),
            "operations": operations.get(phase, 0.0),
            "peak_bytes": meter.peak[phase],
            "predicted_bytes": memory[phase],
        }
        for phase in PHASES
    }


def measured(setting: Setting, engine: Literal["hf", "vllm"], rounds: int, before: float) -> Meter:
    """So many updates, after one that warms up."""
    meter, model = Meter(setting.device, before), setting.policy.model
    options = EngineOptions(name=engine, memory_share=MEMORY_SHARE)
    with Runner() as loop, open_engine(loop, options, model, setting.lengths.rollout) as opened:
        setting.update(loop, opened, Meter(setting.device), setting.lengths.warming, 0)
        for round in range(rounds):
            setting.update(loop, opened, meter, setting.lengths, 1 + round)
    return meter


def setting_of(options: argparse.Namespace, device: torch.device) -> Setting:
    lengths, student, teacher = Lengths(problems=options.problems), STUDENT, TEACHER
    if options.quick:
        lengths = replace(lengths, group=2, prompt=20, turn=16, observation=8)
        student, teacher = small(STUDENT, 2), small(TEACHER, 3)
    lengths = replace(lengths, turn=options.turn or lengths.turn)
    learn = LearnOptions(minibatches=lengths.problems, checkpointing=options.checkpointing)
    return Setting(student, teacher, lengths, learn, device)


# The parts


@dataclass
class Bench:
    """What has been measured so far, part by part."""

    options: argparse.Namespace
    device: torch.device
    ends: float
    """Value of time.monotonic() at which the time is over."""
    rows: list[Row] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=lambda: {"phases": {}, "peers": {}, "mfu": {}})
    failures: dict[str, str] = field(default_factory=dict)
    setting: Setting = field(init=False)
    limit: Limit = field(init=False)
    before: float = 0.0

    def prepare(self) -> None:
        """What a run does when it loads a model."""
        prepare_device(str(self.device))
        self.limit = limit_of(self.device, miniature=self.options.quick)
        take_peak_mb()
        self.before = take_peak_mb() or 0.0
        self.setting = setting_of(self.options, self.device)

    def run(self, name: str) -> None:
        with within(self.ends - time.monotonic(), name, self.failures):
            if name in ("hf", "vllm"):
                self._engine(name)
            else:
                self._peer(name.removesuffix("_alone"))
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.keep()

    def _engine(self, name: Literal["hf", "vllm"]) -> None:
        meter = measured(self.setting, name, self.options.rounds, self.before)
        self.rows += rows_of(self.setting, meter, name, self.limit)
        self.details["phases"][name] = details_of(self.setting, meter, name)
        operations = self.setting.operations()
        self.details["mfu"][name] = {
            phase: of_phase / median(meter.seconds[phase]) / self.limit.rate for phase, of_phase in operations.items()
        }

    def _peer(self, name: str) -> None:
        """Run a peer in a process of its own, so that its memory is free again. Compare its phases with ours."""
        task = {
            "lengths": asdict(self.setting.lengths),
            "small": self.options.quick,
            "device": str(self.device),
            "rounds": self.options.rounds,
            "memory_share": MEMORY_SHARE,
            "checkpointing": self.options.checkpointing,
        }
        command = [sys.executable, str(Path(__file__).with_name("gpu_peers.py")), name]
        left = max(1.0, self.ends - time.monotonic())
        done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, timeout=left)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
        [found] = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
        self.details["peers"][name] = theirs = json.loads(found.removeprefix(MARK))
        sampled = [*theirs.pop("sampled", [self.setting.lengths.sampled] * self.options.rounds)]
        for engine, phases in self.details["phases"].items():
            for phase, seconds in theirs.items():
                work = sampled if phase == "generate" else [self.setting.tokens(phase)] * len(seconds)
                ours = [phases[phase]["tokens"] / each for each in phases[phase]["seconds"]]
                rates = [tokens / each for tokens, each in zip(work, seconds, strict=True)]
                self.rows.append(
                    row(
                        f"{engine}: {phase}, against {name}",
                        f"{median(ours):,.0f} tokens/s",
                        f"{median(rates):,.0f} tokens/s",
                        pairwise_ratios(ours, rates),
                    )
                )

    def keep(self) -> str:
        where = f"{device_name(self.device)}, PyTorch {torch.__version__}"
        limit = self.limit.words if hasattr(self, "limit") else "not measured"
        common = {"machine": where, "limit": limit, "dtype": DTYPE, "checkpointing": self.options.checkpointing}
        return keep(self.options, self.rows, **common, **self.details, failures=self.failures)

    def give_up(self) -> None:
        """End the process if a part does not obey the end of its time."""
        self.failures["time"] = f"ended {GRACE:.0f} s after the time was over"
        print(self.keep(), flush=True)
        os._exit(1)


GRACE = 20.0
"""Seconds after the end of the time until the process is ended."""


def main() -> int:
    # As the command `sod` sets it.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    made = parser(__doc__, rounds=2)
    made.add_argument("--smoke", "--miniature", dest="quick", action="store_true", help="as --quick; needs no GPU")
    made.add_argument("--parts", nargs="+", choices=PARTS, help="default: those whose packages are installed")
    made.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, default=True)
    made.add_argument("--problems", type=int, default=2, help="groups of 4 trajectories each")
    made.add_argument("--turn", type=int, help="tokens of each of the 8 turns; 2,272 make 20,480 in all")
    made.add_argument("--seconds", type=float, default=540.0, help="of all parts together")
    options = parse(made)
    if not options.quick and not torch.cuda.is_available():
        made.error("there is no GPU here; --smoke runs the same code on a CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench = Bench(options, device, time.monotonic() + options.seconds)
    watch = threading.Timer(options.seconds + GRACE, bench.give_up)
    watch.daemon = True
    watch.start()
    with within(options.seconds, "set-up", bench.failures):
        bench.prepare()
    if not bench.failures:
        for name in options.parts or [name for name, package in PARTS.items() if not package or find_spec(package)]:
            bench.run(name)
    watch.cancel()
    print(bench.keep())
    print(table([json.loads(bench.keep())]), file=sys.stderr)
    for name, by_phase in bench.details["mfu"].items():
        shares = ", ".join(f"{phase} {share:.2%}" for phase, share in by_phase.items())
        print(f"MFU with {name}, of {bench.limit.words}: {shares}", file=sys.stderr)
    for name, why in bench.failures.items():
        print(f"failed: {name}: {why}", file=sys.stderr)
    return int(bool(bench.failures))


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"


if __name__ == "__main__":
    sys.exit(main())
