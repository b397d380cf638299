"""One update of SOD on one GPU, phase by phase: Qwen3-0.6B's shape learns from Qwen3-4B's, on trajectories of 20,480 tokens.

    python benchmarks/gpu.py [--engines hf vllm] [--no-checkpointing]
    python benchmarks/gpu.py --miniature     # the same code on a CPU, in less than two minutes

Nothing is downloaded: weights are drawn here, in bfloat16, with Qwen3's vocabulary of 151,936. For each phase: seconds, tokens a
second, the share of the GPU's peak that the model's own arithmetic makes up, and the peak memory beside the prediction of
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
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from statistics import median
from typing import Literal

import torch
from measure import Row, parse, parser, report, row, show
from table import table
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from sod.batching import Batch, ScoredBatch, collate, join
from sod.config import AlgorithmOptions, EngineOptions, LearnOptions, RolloutOptions
from sod.credit.algorithms import give_credit
from sod.engines import Engine, Request
from sod.engines.opening import open_engine
from sod.lab.make import TEACHER_FOLDER
from sod.lab.tokenizer import VOCABULARY
from sod.model.attention import ATTENTION
from sod.model.loading import load_tokenizer, score
from sod.model.policy import Policy
from sod.planning.inventory import ON_HUB, as_bytes, find_device
from sod.planning.memory import (
    ITEMSIZE,
    Shape,
    cache_bytes,
    forward_operations,
    learning_bytes,
    optimiser_bytes,
    scoring_bytes,
)
from sod.processes.concurrency import Runner, run_concurrently
from sod.runs.peaks import take_peak_mb
from sod.types import Group, Piece, Problem, Trajectory

STUDENT, TEACHER = ON_HUB["Qwen/Qwen3-0.6B"], ON_HUB["Qwen/Qwen3-4B"]
DTYPE = "bfloat16"
PHASES = ("generate", "score, student", "score, teacher", "learn", "sync")
ENGINES: tuple[Literal["hf", "vllm"], ...] = ("hf", "vllm")
NEVER = -1
"""A token that no turn ends with."""
BACKWARD = 2
"""Operations of a backward pass, in forward passes."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """What the trajectories are like: as many in each group, all as long as each other. Lengths are in tokens."""

    problems: int = 2
    group: int = 4
    turns: int = 8
    prompt: int = 512
    turn: int = 2272
    observation: int = 256

    @property
    def whole(self) -> int:
        """Of one trajectory."""
        return self.prompt + self.turns * self.turn + (self.turns - 1) * self.observation

    @property
    def trajectories(self) -> int:
        return self.problems * self.group

    @property
    def sampled(self) -> int:
        """Of all trajectories together."""
        return self.trajectories * self.turns * self.turn

    @property
    def rollout(self) -> RolloutOptions:
        return RolloutOptions(
            problems=self.problems,
            group=self.group,
            max_prompt_tokens=self.prompt,
            max_tokens=self.whole - self.prompt,
            concurrency=self.trajectories,
        )


WARMING = Lengths(turns=2, prompt=16, turn=8, observation=8)
"""Of an update before those that are measured: it makes the optimiser's moments, and loads what is loaded once."""


def small(shape: Shape, layers: int) -> Shape:
    """A network for a CPU, with the vocabulary of the large one."""
    return replace(shape, width=64, layers=layers, heads=4, kv_heads=2, head_dim=32, feed_forward=160)


def network(shape: Shape, device: torch.device, seed: int) -> PreTrainedModel:
    """A Qwen3 of this shape with random weights."""
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=shape.tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(seed)
    with device:
        made = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, DTYPE), attn_implementation=ATTENTION)
    assert made.num_parameters() == shape.parameters
    return made.eval()


@dataclass
class Meter:
    """Seconds of each phase, and the most memory in use meanwhile, round after round."""

    device: torch.device
    before: float = 0.0
    """MiB that are not counted: on a CPU, of Python and its libraries."""
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    peak: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Bytes; none where the system does not tell."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._wait()
        take_peak_mb()
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds[name].append(time.perf_counter() - start)
        if (peak := take_peak_mb()) is not None:
            self.peak[name].append((peak - self.before) * 2**20)

    def _wait(self) -> None:
        """A GPU goes on working when its calls have returned."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Setting:
    """Student and teacher on one device."""

    student: Shape
    teacher: Shape
    lengths: Lengths
    learn: LearnOptions
    device: torch.device
    policy: Policy = field(init=False)
    scorer: PreTrainedModel = field(init=False)
    """The teacher's network."""

    def __post_init__(self) -> None:
        self.policy = Policy(network(self.student, self.device, 0), load_tokenizer(TEACHER_FOLDER), self.learn)
        self.scorer = network(self.teacher, self.device, 1).requires_grad_(False)

    def update(self, loop: Runner, engine: Engine, meter: Meter, lengths: Lengths, seed: int) -> None:
        """One trip of the training loop; only trajectories do not end by themselves, and no judge is asked."""
        with meter.phase("generate"):
            groups = loop.run(write_all(engine, lengths, seed))
        with meter.phase("score, student"):
            batches = [self._with_student(collate([group])) for group in groups]
        with meter.phase("score, teacher"):
            batch = join([self._with_teacher(batch) for batch in batches])
        with meter.phase("learn"):
            self.policy.learn(give_credit(batch, AlgorithmOptions()), 1.0, torch.Generator().manual_seed(seed))
        with meter.phase("sync"):
            loop.run(engine.refresh())

    def _with_student(self, batch: Batch) -> ScoredBatch:
        logprobs_BT, _ = score(self.policy.model, batch, 1.0, self.learn.microbatch_tokens)
        return batch.scored(logprobs_BT)

    def _with_teacher(self, batch: ScoredBatch) -> ScoredBatch:
        logprobs_BT, entropy_BT = score(self.scorer, batch, 1.0, self.learn.microbatch_tokens, entropy=True)
        return replace(batch, teacher_BT=logprobs_BT, teacher_entropy_BT=entropy_BT)

    # What is expected

    def operations(self) -> dict[str, float]:
        """Of the model's own arithmetic, by phase."""
        length, tokens = self.lengths.whole, self.lengths.trajectories * self.lengths.whole
        forward = forward_operations(self.student, tokens, length)
        return {
            "generate": forward,
            "score, student": forward,
            "score, teacher": forward_operations(self.teacher, tokens, length),
            "learn": (1 + BACKWARD) * forward,
        }

    def tokens(self, phase: str) -> int:
        """What the phase has to do with: sampled ones, or all."""
        return self.lengths.sampled if phase == "generate" else self.lengths.trajectories * self.lengths.whole

    def memory(self, engine: str) -> dict[str, int]:
        """Return the predicted peak of each phase in bytes (`sod.planning.memory`): what is held, and temporary buffers."""
        itemsize = ITEMSIZE[DTYPE]
        tokens = max(self.learn.microbatch_tokens, self.lengths.whole)
        state = optimiser_bytes(self.student, itemsize, self.learn)
        gradients = state.pop("gradients")
        held = itemsize * (self.student.parameters + self.teacher.parameters) + sum(state.values())
        if engine == "hf":
            held += self.lengths.trajectories * self.lengths.whole * cache_bytes(self.student, itemsize)
        return {
            "generate": held,
            "score, student": held + scoring_bytes(self.student, tokens, itemsize),
            "score, teacher": held + scoring_bytes(self.teacher, tokens, itemsize),
            "learn": held + gradients + learning_bytes(self.student, tokens, itemsize, self.learn),
            "sync": held,
        }


async def write_all(engine: Engine, lengths: Lengths, seed: int) -> list[Group]:
    """All trajectories at the same time; those of a group begin alike."""
    draw = random.Random(seed)
    problems = [Problem(id=str(i), messages=(), answer="") for i in range(lengths.problems)]
    prompts = [made_up(draw, lengths.prompt) for _ in problems]
    numbers = range(lengths.trajectories)
    written = await run_concurrently(
        write(engine, problems[i // lengths.group], prompts[i // lengths.group], lengths, i, draw.getrandbits(40))
        for i in numbers
    )
    return [Group(problem, written[i * lengths.group :][: lengths.group]) for i, problem in enumerate(problems)]


async def write(
    engine: Engine, problem: Problem, prompt: tuple[int, ...], lengths: Lengths, number: int, seed: int
) -> Trajectory:
    """Turns of a given length, with observations of a given length between them; every other trajectory is called right."""
    draw = random.Random(seed)
    pieces, ids = [Piece("prompt", prompt)], list(prompt)
    for turn in range(lengths.turns):
        if turn:
            pieces.append(Piece("tool", made_up(draw, lengths.observation), outcomes=("ok",)))
            ids += pieces[-1].tokens
        request = Request(
            ids=list(ids), max_tokens=lengths.turn, stop=NEVER, seed=draw.getrandbits(40), trajectory=number
        )
        reply = await engine.sample(request)
        pieces.append(Piece("student", reply.tokens, reply.logprobs))
        ids += reply.tokens
    engine.release(number)
    return Trajectory(problem, number, tuple(pieces), "answered", "", reward=1.0 if number % 2 else -1.0)


def made_up(draw: random.Random, count: int) -> tuple[int, ...]:
    """Tokens of the lab's vocabulary, which the large one has as well."""
    return tuple(draw.randrange(VOCABULARY) for _ in range(count))


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
    with Runner() as loop, open_engine(loop, EngineOptions(name=engine), model, setting.lengths.rollout) as opened:
        setting.update(loop, opened, Meter(setting.device), WARMING, 0)
        for round in range(rounds):
            setting.update(loop, opened, meter, setting.lengths, 1 + round)
    return meter


def setting_of(options: argparse.Namespace, device: torch.device) -> Setting:
    lengths, student, teacher = Lengths(problems=options.problems), STUDENT, TEACHER
    if options.quick:
        lengths = replace(lengths, group=2, prompt=20, turn=50, observation=12)
        student, teacher = small(STUDENT, 2), small(TEACHER, 3)
    lengths = replace(lengths, turn=options.turn or lengths.turn)
    learn = LearnOptions(minibatches=lengths.problems, checkpointing=options.checkpointing)
    return Setting(student, teacher, lengths, learn, device)


def main() -> None:
    made = parser(__doc__, rounds=1)
    made.add_argument("--miniature", dest="quick", action="store_true", help="the same as --quick; needs no GPU")
    made.add_argument("--engines", nargs="+", choices=ENGINES, help="default: those that are installed")
    made.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, default=True)
    made.add_argument("--problems", type=int, default=2, help="groups of 4 trajectories each")
    made.add_argument("--turn", type=int, help="tokens of each of the 8 turns; 2,272 make 20,480 in all")
    options = parse(made)
    if not options.quick and not torch.cuda.is_available():
        made.error("there is no GPU here; --miniature runs the same code on a CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limit = limit_of(device, miniature=options.quick)
    take_peak_mb()
    before = take_peak_mb() or 0.0
    setting = setting_of(options, device)
    rows, phases = [], {}
    for name in options.engines or (ENGINES if find_spec("vllm") else ENGINES[:1]):
        try:
            meter = measured(setting, name, options.rounds, before)
        except torch.OutOfMemoryError as error:  # the other engine may do with less
            print(f"{name}: {error}", file=sys.stderr)
            continue
        rows += rows_of(setting, meter, name, limit)
        phases[name] = details_of(setting, meter, name)
    where = f"{device_name(device)}, PyTorch {torch.__version__}"
    details = {"dtype": DTYPE, "checkpointing": options.checkpointing, "phases": phases}
    report(options, rows, machine=where, limit=limit.words, **details)
    print(table([{"machine": where, "rows": rows}]), file=sys.stderr)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"


if __name__ == "__main__":
    main()
