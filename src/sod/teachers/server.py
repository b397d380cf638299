"""A teacher that a vLLM server has, for one that is too large for the GPU that trains. The server is started with

    vllm serve TEACHER --max-model-len 23041 --host 127.0.0.1 --port 8001

It is sent the token ids of a trajectory, and tells the log-probability of each (`prompt_logprobs`). Its context must have room
for the longest trajectory and one token more, which vLLM insists on writing. For the scores it takes memory that it does not
reckon with when it starts, of the size of the logits of all tokens that it reads at once (its pull request 52054): if it runs
out, start it with a lower --max-num-batched-tokens or --gpu-memory-utilization.

What it tells is at temperature 1, whatever is asked and whatever --logprobs-mode says; with raw_logits it is no
log-probability at all, and is refused here.
"""

import asyncio
import math
import os
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sod.batching import Batch, collate, pad
from sod.concurrency import Occupancy, compute, together
from sod.config import ModelOptions, SamplingOptions, ScoreOptions
from sod.engines.http import TRIES, Body, Refused, ServedModel, Words, short
from sod.engines.served import PROBE
from sod.engines.vllm import COARSE_TOLERANCE, TOLERANCE
from sod.errors import InfrastructureError, ModelError, OptionError
from sod.models import check_same_vocabulary, load_model, load_tokenizer, score
from sod.progress import say
from sod.teachers import Scores
from sod.types import Group, Piece, Problem, Trajectory

AT_A_TIME = 4
"""Trajectories that the server is asked about at once: enough to keep it reading, few enough for its memory."""
ANSWER_SECONDS = 600.0
"""For which one answer may be awaited."""
KEY_VARIABLE = "SOD_TEACHER_KEY"
"""Environment variable with the server's key, if it wants one."""
IMPOSSIBLE = -9999.0
"""What vLLM writes in place of minus infinity."""
ROUNDING = 1e-3
"""A log-probability may be above 0 by no more than this."""
SAME = 0.02
"""Nats, mean over TEXT, by which a server that was started again may differ: the order of its sums, in bfloat16."""
PROBE_TOKENS = 512
TEXT = """A farmer has 17 sheep and buys 3 pens. Each pen holds at most 8 animals, so the question is whether all of them fit.
Let us count: 3 * 8 = 24 places, and 24 - 17 = 7 of these stay empty. Hence the answer is yes, with \\boxed{7} places to spare.

```python
def places(pens, size, animals):
    free = pens * size - animals
    return free if free >= 0 else None

print(places(3, 8, 17))
```

The program prints 7, as expected. In general, for p pens of size s and n animals, the inequality n <= p * s must hold; when it
does not, at least one animal has no place, by the pigeonhole principle. Was für Schafe gilt, gilt auch für Ziegen. 证毕。
"""
"""What the server and the weights here, where there are any, must think the same of: prose, a program, other scripts."""


class ServerTeacher:
    """Scores with the model that the vLLM server at `options.teacher_url` serves. Use `open` to get one.

    It tells no entropy, judges no candidates, and what it says is at temperature 1.
    """

    @classmethod
    async def open(
        cls,
        folder: Path,
        student_tokenizer: PreTrainedTokenizerBase,
        network: ModelOptions,
        options: ScoreOptions,
        rollout: SamplingOptions,
        *,
        seconds: float = ANSWER_SECONDS,
    ) -> Self:
        """Wait for the server; check that it has the teacher, whose tokenizer, and perhaps weights, are in `folder`.

        Raises OptionError for what cannot work, ModelError for another model or a broken one, InfrastructureError if nobody
        answers. Every answer may take `seconds`.
        """
        check_same_vocabulary(student_tokenizer, load_tokenizer(folder))
        teacher = cls(student_tokenizer, options, seconds=seconds)
        try:
            await teacher._meet(options.teacher_served_name, rollout)
            if options.teacher_dtype != "same":
                network = network.model_copy(update={"dtype": options.teacher_dtype})
            await teacher._prove(folder, network, rollout)
        except BaseException:
            await teacher.close()
            raise
        if rollout.temperature != 1:
            say(
                f"{teacher._model} tells log-probabilities at temperature 1, which vLLM cannot change, but rollout.temperature "
                f"is {rollout.temperature:g}: the signal compares the teacher at 1 with the student at "
                f"{rollout.temperature:g}, and is not zero where they agree. Set rollout.temperature to 1, or score on this "
                "machine, without score.teacher_url."
            )
        return teacher

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: ScoreOptions, *, seconds: float):
        assert options.teacher_url is not None
        self._tokenizer = tokenizer
        self._model = ServedModel(
            options.teacher_url,
            kind="teacher's server",
            words=Words(
                name="score.teacher_served_name",
                key=KEY_VARIABLE,
                tokenizer="Serve a teacher with the student's tokenizer.",
                again="Start it again (if it ran out of memory, with a lower --max-num-batched-tokens), then continue: "
                "`sod train` with --resume, `sod eval` by running it again.",
            ),
            variable=KEY_VARIABLE,
            seconds=seconds,
            patience=options.teacher_patience,
            probe=lambda: self._body(self._encode(PROBE)),
            proof=self._prove_again,
        )
        self._told: list[float] = []
        """What it thought of TEXT at the start."""
        self._slots = asyncio.Semaphore(AT_A_TIME)
        self._occupancy = Occupancy()

    async def score(self, batch: Batch) -> Scores:
        """Raises InfrastructureError if the server fails, OutageError if it stays away, ModelError for broken numbers."""
        assert batch.candidates_BTJ is None, "a server judges no candidates"
        rows = await together([self._row(trajectory.ids) for trajectory in batch.trajectories])
        logprobs_BT = pad(rows, torch.float32).masked_fill(~batch.mask_BT, 0)
        self._check(logprobs_BT)
        return Scores(logprobs_BT, None)

    def take_busy_seconds(self) -> float:
        """Seconds in which at least one request was under way, outages included."""
        return self._occupancy.take_seconds()

    async def close(self) -> None:
        await self._model.close()

    # One trajectory

    def _body(self, ids: list[int]) -> Body:
        # No seed: on a CPU, a prompt that has one and is read in parts makes vLLM crash.
        return {"model": self._model.name, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}

    async def _row(self, ids: list[int]) -> list[float]:
        """The log-probability of every token, 0 for the first, which has none."""
        too_long = (
            f"It was asked about {len(ids)} tokens, and writes one more: if that is longer than its context, start it with a "
            "longer one (--max-model-len), or lower rollout.max_tokens."
        )
        async with self._slots:
            with self._occupancy:
                for _ in range(TRIES):
                    answer = await self._model.ask(self._body(ids), too_long=too_long)
                    if not _is_broken_off(answer):
                        return self._read(answer, ids)
        raise InfrastructureError(f"{self._model} broke its answer off, {TRIES} times.")

    def _read(self, answer: Any, ids: list[int]) -> list[float]:
        match answer:
            case {"choices": [{"prompt_logprobs": [_, *rest]}, *_]} if len(rest) == len(ids) - 1:
                try:
                    told = [each[str(token)]["logprob"] for each, token in zip(rest, ids[1:], strict=True)]
                except (LookupError, TypeError):
                    raise ModelError(f"{self._model} tells of other tokens than it was asked about.") from None
                return [0.0, *(math.nan if value is None else value for value in told)]
        raise OptionError(
            f"{self._model} does not tell the log-probabilities of the tokens that it is given (prompt_logprobs), as vLLM does: "
            f"{short(str(answer))}"
        )

    def _check(self, logprobs_BT: Tensor) -> None:
        broken = logprobs_BT[~(logprobs_BT.isfinite() & (logprobs_BT > IMPOSSIBLE))]
        if len(broken):
            raise ModelError(
                f"{self._model} gives {len(broken)} tokens log-probabilities such as {broken[0].item()}: its model computes "
                "numbers that are not finite. Start it with another --dtype."
            )
        if logprobs_BT.numel() and (highest := logprobs_BT.max().item()) > ROUNDING:
            raise ModelError(
                f"{self._model} gives a token a log-probability of {highest:.2g}, and there is none above 0. Start it without "
                "--logprobs-mode raw_logits or processed_logits."
            )

    # What is there

    async def _meet(self, wanted: str | None, rollout: SamplingOptions) -> None:
        await self._model.meet(wanted)
        self._model.check_context(_longest(rollout) + 1, "rollout.max_prompt_tokens + rollout.max_tokens + 1")
        await self._model.check_tokenizer(PROBE, self._encode(PROBE), self._tokenizer.name_or_path)
        try:
            await self._model.ask_at_start(self._body(self._encode(PROBE)))
        except Refused as error:
            raise await self._model.explained(error) from error

    async def _prove(self, folder: Path, network: ModelOptions, rollout: SamplingOptions) -> None:
        """Raises ModelError unless the server repeats itself, and thinks what the weights in `folder` think."""
        tolerance = TOLERANCE if network.dtype == "float32" else COARSE_TOLERANCE
        probe = _probe(self._text[: min(PROBE_TOKENS, _longest(rollout))])
        told_BT = (await self.score(probe)).logprobs_BT
        self._told = told_BT[0].tolist()
        off = _gap(told_BT, (await self.score(probe)).logprobs_BT, probe)
        if not off <= tolerance:
            raise ModelError(
                f"{self._model} does not repeat itself: asked twice about the same tokens, its log-probabilities are {off:.2g} "
                f"nats apart ({tolerance} are allowed)."
            )
        if unchecked := _why_unchecked(folder, network):
            say(f"{unchecked}: it is not checked that {self._model} serves the teacher's weights.")
            return
        ours_BT = await compute(_by_hand, folder, network, probe)
        off = _gap(told_BT, ours_BT, probe)
        if not off <= tolerance:
            theirs, ours = (mean_BT[probe.mask_BT].mean().item() for mean_BT in (told_BT, ours_BT))
            what, advice = (
                (
                    "rounds more than is allowed",
                    "Start it with --dtype float32, or give --score.teacher_dtype bfloat16.",
                )
                if off <= COARSE_TOLERANCE
                else ("serves another model", f"Serve the model in {folder}, or give as --teacher what is served.")
            )
            raise ModelError(
                f"{self._model} {what}: to {int(probe.mask_BT.sum())} tokens of text it gives {theirs:.4f} nats each, and the "
                f"model in {folder} {ours:.4f}; they are {off:.2g} apart in the mean ({tolerance} are allowed). {advice}"
            )

    async def _prove_again(self) -> None:
        """Raises ModelError unless a server that has vanished came back with the model that it had."""
        if not self._told:
            return
        ids = self._text[: len(self._told)]
        told = self._read(await self._model.ask_now(self._body(ids)), ids)
        off = sum(abs(one - other) for one, other in zip(told, self._told, strict=True)) / (len(ids) - 1)
        if not off <= SAME:
            raise ModelError(
                f"{self._model} has come back with another model: its log-probabilities are {off:.2g} nats off what they were "
                f"({SAME} are allowed). Start it as it was, then continue: `sod train` with --resume, `sod eval` by "
                "running it again."
            )

    @property
    def _text(self) -> list[int]:
        return self._encode(TEXT)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, verbose=False)


def holds_weights(folder: Path) -> bool:
    """Whether there is a whole model, and not its tokenizer alone."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _is_broken_off(answer: Any) -> bool:
    """As by a server that is being ended."""
    match answer:
        case {"choices": [{"finish_reason": "abort" | "error"}, *_]}:
            return True
    return False


def _longest(rollout: SamplingOptions) -> int:
    return rollout.max_prompt_tokens + rollout.max_tokens


def _probe(ids: list[int]) -> Batch:
    """One trajectory, all of it the student's but the first token."""
    pieces = (Piece("prompt", (ids[0],)), Piece("student", tuple(ids[1:])))
    problem = Problem(id="probe", messages=(), answer="")
    return collate([Group(problem, [Trajectory(problem, 0, pieces, "answered", "", 0.0)])])


def _gap(one_BT: Tensor, other_BT: Tensor, batch: Batch) -> float:
    """Nats, mean over the sampled tokens."""
    return (one_BT - other_BT).abs()[batch.mask_BT].mean().item()


def _why_unchecked(folder: Path, network: ModelOptions) -> str:
    """Why no forward pass can be made here, or nothing."""
    if not holds_weights(folder):
        return f"{folder} holds no weights"
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) * (2 if network.dtype == "float32" else 1)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory / 2:
        return f"The weights in {folder} would take more than half of this machine's memory"
    return ""


def _by_hand(folder: Path, network: ModelOptions, probe: Batch) -> Tensor:
    """The same log-probabilities of the weights that are here, on the CPU: the GPU is the student's. -> (B, T)"""
    model = load_model(folder, network.model_copy(update={"device": "cpu"}))
    return score(model, probe, temperature=1.0, microbatch_tokens=PROBE_TOKENS)[0]
