"""The work of benchmarks/gpu.py: networks of random weights, trajectories of equal length, one update in timed phases."""

import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from sod.batching import Batch, ScoredBatch, collate, join
from sod.config import AlgorithmOptions, LearnOptions, RolloutOptions
from sod.credit.algorithms import give_credit
from sod.engines import Engine, Request
from sod.lab.make import TEACHER_FOLDER
from sod.lab.tokenizer import VOCABULARY
from sod.model.attention import ATTENTION
from sod.model.loading import load_tokenizer
from sod.model.policy import Policy
from sod.model.scores import score
from sod.planning.inventory import ON_HUB
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
BACKWARD = 2
"""Operations of a backward pass, in forward passes."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """What the trajectories are like: as many in each group, all as long as each other. Lengths are in tokens."""

    problems: int = 2
    group: int = 4
    turns: int = 8
    prompt: int = 512
    turn: int = 256
    observation: int = 256

    @property
    def whole(self) -> int:
        """Of one trajectory."""
        return self.prompt + self.turns * self.turn + (self.turns - 1) * self.observation

    @property
    def warming(self) -> "Lengths":
        """Of an update before those that are measured: the same tokens, nearly all of them given. It makes the optimiser's
        moments, lets the allocator grow, and loads what is loaded once."""
        return replace(self, turns=1, turn=8, prompt=self.whole - 8)

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


def small(shape: Shape, layers: int) -> Shape:
    """A network for a CPU, with the vocabulary of the large one."""
    return replace(shape, width=64, layers=layers, heads=4, kv_heads=2, head_dim=32, feed_forward=160)


def config_of(shape: Shape) -> Qwen3Config:
    return Qwen3Config(
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


def network(shape: Shape, device: torch.device, seed: int) -> PreTrainedModel:
    """A Qwen3 of this shape with random weights."""
    config = config_of(shape)
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
        gpu = torch.cuda.mem_get_info(self.device)[1] if self.device.type == "cuda" else None
        tokens = max(self.learn.microbatch_tokens, self.lengths.whole)
        state = optimiser_bytes(self.student, itemsize, self.learn)
        gradients = state.pop("gradients")
        held = itemsize * (self.student.parameters + self.teacher.parameters) + sum(state.values())
        if engine == "hf":
            held += self.lengths.trajectories * self.lengths.whole * cache_bytes(self.student, itemsize)
        return {
            "generate": held,
            "score, student": held + scoring_bytes(self.student, tokens, itemsize, gpu),
            "score, teacher": held + scoring_bytes(self.teacher, tokens, itemsize, gpu),
            "learn": held + gradients + learning_bytes(self.student, tokens, itemsize, self.learn, gpu),
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
            ids=list(ids), max_tokens=lengths.turn, stops=(), seed=draw.getrandbits(40), trajectory=number
        )
        reply = await engine.sample(request)
        pieces.append(Piece("student", reply.tokens, reply.logprobs))
        ids += reply.tokens
    engine.release(number)
    return Trajectory(problem, number, tuple(pieces), "answered", "", reward=1.0 if number % 2 else -1.0)


def made_up(draw: random.Random, count: int) -> tuple[int, ...]:
    """Tokens of the lab's vocabulary, which the large one has as well."""
    return tuple(draw.randrange(VOCABULARY) for _ in range(count))
