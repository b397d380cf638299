"""A remote teacher on a server, for a model too large for the GPU that trains. For example, start vLLM with

    vllm serve TEACHER --max-model-len 23041 --host 127.0.0.1 --port 8001

It receives the token ids of a trajectory and returns the log-probability of each (`sod.teachers.dialects` has the kinds of
servers). Its context must have room for the longest trajectory and one more token. Scoring takes memory that vLLM does not
reserve at its start: the logits of all tokens that it reads at once (its pull request 52054). If it runs out of memory, start
it with a lower --max-num-batched-tokens or --gpu-memory-utilization.

The log-probabilities must be at temperature 1. vLLM with --logprobs-mode raw_logits returns none; this is an error here.
"""

import asyncio
import functools
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sod.batching import Batch, ScoredBatch, pad
from sod.config import EngineOptions, ModelOptions, SamplingOptions, ScoreOptions
from sod.engines import Engine
from sod.engines.opening import open_engine
from sod.engines.served import PROBE_TEXT
from sod.engines.served_model import ServedModel, Words
from sod.engines.vllm_base import COARSE_TOLERANCE, TOLERANCE
from sod.errors import ModelError
from sod.model.dtypes import dtype_of
from sod.model.forward import id_count, unused_beside
from sod.model.loading import load_tokenizer
from sod.processes.concurrency import Occupancy, Runner, compute, run_concurrently
from sod.runs.files import write_json
from sod.teachers import Scores, Teacher, TeacherSetup
from sod.teachers.dialects import Dialect, ServedRow, VllmDialect, recognised
from sod.teachers.proving import TEXT, local_logprobs, mean_gap, proof_batch, why_unchecked
from sod.teachers.translated import Translation
from sod.types import Problem, Trajectory

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 600.0
"""Time limit of one response."""
KEY_VARIABLE = "SOD_TEACHER_KEY"
"""Environment variable with the server's key, if it requires one."""
IMPOSSIBLE = -9999.0
"""vLLM's replacement for minus infinity."""
UNCHANGED = 1e-4
"""A log-probability that differs by less has not changed, in nats."""
ROUNDING = 1e-3
"""Largest allowed log-probability above 0."""
SAME = 0.02
"""Allowed mean difference over TEXT since the start, in nats. In bfloat16 the order of sums causes some."""
PROOF_FILE = "teacher_proof.json"
"""File of the log-probabilities of TEXT in a checkpoint."""
COSTS = ("tokens_sent", "tokens_cached", "tokens_returned", "requests")
"""Metrics of the requests, after teacher/."""


class ServerTeacher(Teacher):
    """Scores with the model on the server at `options.teacher_url`. Create it with `open`.

    Returns no entropies and scores no candidates; log-probabilities are at temperature 1. A teacher with another tokenizer has
    spans (`sod.teachers.translated`). Where the server only returns the most likely tokens, the log-probability of another
    token is an upper bound. In both cases `scores_tokens` is False.
    """

    scores_candidates = False
    writes_turns = True

    @classmethod
    async def open(cls, setup: TeacherSetup, *, seconds: float = ANSWER_SECONDS) -> Self:
        """Wait for the server, and check that it serves the teacher in `setup.folder`.

        The directory holds the teacher's tokenizer, and optionally its weights. Every response may take `seconds`. Raises
        OptionError for options that cannot work, ModelError for a different or broken model, TemplateError for a teacher with
        another tokenizer and no usable template, InfrastructureError if the server does not respond.
        """
        rollout, own = setup.rollout, load_tokenizer(setup.folder)
        translation = None if own.get_vocab() == setup.tokenizer.get_vocab() else Translation(setup)
        teacher = cls(own, setup.score, seconds=seconds, translation=translation)
        try:
            await teacher._meet(setup.score, rollout)
            await teacher._prove(setup.folder, setup.network.for_teacher(setup.score), rollout)
            teacher.take_costs()  # those of the checks
        except BaseException:
            await teacher.close()
            raise
        if rollout.temperature != 1:
            logger.warning(
                f"{teacher._model} returns log-probabilities at temperature 1, but rollout.temperature "
                f"is {rollout.temperature:g}: the signal compares the teacher at 1 with the student at "
                f"{rollout.temperature:g}, and is not zero where they agree. Set rollout.temperature to 1, or use a local "
                "teacher, without score.teacher_url."
            )
        return teacher

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        options: ScoreOptions,
        *,
        seconds: float,
        translation: Translation | None = None,
    ):
        assert options.teacher_url is not None
        self._tokenizer, self._translation, self._options = tokenizer, translation, options
        self.chat = translation.chat if translation else None
        self._limit: int | None = None
        """Largest number of tokens of a trajectory in the teacher's tokens; None if it is not known."""
        self._model = ServedModel(
            options.teacher_url,
            kind="teacher's server",
            words=Words(
                name="score.teacher_served_name",
                key=KEY_VARIABLE,
                tokenizer="Pass the served model, or its tokenizer, as --teacher.",
                again="Restart it (if it ran out of memory, with a lower --max-num-batched-tokens), then continue: "
                "`sod train` with --resume, `sod eval` by running the same command.",
            ),
            variable=KEY_VARIABLE,
            seconds=seconds,
            patience=options.teacher_patience,
            probe=lambda: self._dialect.body(self._encode(PROBE_TEXT), 1),
            proof=self._prove_again,
        )
        self._dialect: Dialect = VllmDialect(self._model, tokenizer, options.teacher_top)
        self._first: list[float] = []
        """Log-probabilities of TEXT at the start, one per token."""
        self._slots = asyncio.Semaphore(self._dialect.at_once)
        self._occupancy = Occupancy()
        self._allowed = SAME
        """Allowed mean difference over TEXT between now and the start, in nats."""
        self._costs: Counter[str] = Counter()

    async def score(self, batch: Batch) -> Scores:
        """Score a batch. Where the server returns no exact value, the log-probability is an upper bound.

        Raises InfrastructureError if the server fails, OutageError if it stays down, ModelError for invalid numbers.
        """
        return Scores((await self._read(batch))[0], None)

    async def scored(self, batch: ScoredBatch) -> ScoredBatch:
        """Return the batch with this teacher's scores.

        A token outside the most likely ones has a signal between minus infinity and the upper bound minus log pi of the
        student. It gets the value of this interval that is nearest to 0.
        """
        if self._translation is not None:
            return await self._translated(self._translation, batch)
        bound_BT, outside_BT = await self._read(batch)
        if self.scores_tokens:
            return Scores(bound_BT, None).add_to(batch)
        nearest_BT = torch.where(outside_BT, torch.minimum(bound_BT, batch.student_BT), bound_BT)
        likeliest_BT = torch.where(outside_BT, bound_BT.exp(), 0.0)
        return replace(Scores(nearest_BT, None).add_to(batch), outside_BT=likeliest_BT)

    async def _translated(self, translation: Translation, batch: ScoredBatch) -> ScoredBatch:
        """Return the batch with the scores of a teacher with another tokenizer."""
        theirs, spans = await compute(translation.translated, batch, self._limit)
        bound_BT, outside_BT = await self._read(theirs)
        outside = None if self._dialect.exact else outside_BT
        return translation.scored(batch, Scores(bound_BT, None), spans, theirs.mask_BT, outside)

    def check(self, problems: Sequence[Problem]) -> None:
        if self._translation is not None:
            self._translation.check(problems, self._limit)

    async def _read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities, and True where one is an upper bound. -> (B, T), (B, T)

        Where the server keeps what it has read, one trajectory of each prompt is read before the others.
        """
        assert batch.candidates_BTJ is None, "a server scores no candidates"
        wanted = [[at for at, mine in enumerate(row) if mine] for row in batch.mask_BT.tolist()]
        found: dict[int, ServedRow] = {}
        prompts = {tuple(each.ids[: at[0] if at else 0]): row for row, (each, at) in _backwards(batch, wanted)}
        leaders = sorted(prompts.values()) if self._dialect.caches else []
        for rows in (leaders, [row for row in range(len(batch)) if row not in leaders]):
            answers = await run_concurrently([self._row(batch.trajectories[row].ids, wanted[row]) for row in rows])
            found |= dict(zip(rows, answers, strict=True))
        logprobs_BT = pad([found[row].logprobs for row in range(len(batch))], torch.float32)
        outside_BT = pad([found[row].outside for row in range(len(batch))], torch.bool)
        logprobs_BT = logprobs_BT.masked_fill(~batch.mask_BT, 0)
        self._check(logprobs_BT)
        return logprobs_BT, outside_BT & batch.mask_BT

    def take_busy_seconds(self) -> float:
        """Return the seconds since the last call with at least one running request, outages included."""
        return self._occupancy.take_seconds()

    def take_costs(self) -> dict[str, float]:
        """Return the tokens sent, read from the server's cache and returned since the last call, and the requests."""
        costs, self._costs = self._costs, Counter()
        return {f"teacher/{name}": float(costs[name]) for name in COSTS}

    async def confirm(self) -> None:
        """Raise ModelError unless the log-probabilities of TEXT are those of the start.

        A server that was replaced between two requests fails no request, and may list the same name in /v1/models.
        """
        ids = self._text[: len(self._first)]
        self._compare((await self._row(ids, list(range(1, len(ids))))).logprobs, self._allowed)

    def save(self, folder: Path) -> None:
        """Write the log-probabilities of TEXT."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PROOF_FILE, {"kind": self._kind, "logprobs": self._first})

    def restore(self, folder: Path) -> None:
        """Raise ModelError if the saved log-probabilities of TEXT, from a server of the same kind, are others."""
        if not (folder / PROOF_FILE).is_file():
            return
        saved = json.loads((folder / PROOF_FILE).read_text("utf-8"))
        if saved["kind"] == self._kind and len(saved["logprobs"]) == len(self._first):
            self._compare(saved["logprobs"], SAME)

    @property
    def _kind(self) -> list[object]:
        return [self._dialect.name, self._dialect.top]

    @contextmanager
    def sampled(self, loop: Runner, rollout: SamplingOptions, options: EngineOptions | None = None) -> Iterator[Engine]:
        """Open an engine that samples the model on the server."""
        served = EngineOptions(
            name="served",
            url=self._options.teacher_url,
            served_name=self._model.name,
            key_variable=KEY_VARIABLE,
            patience=self._options.teacher_patience,
        )
        with open_engine(loop, served, None, rollout, self._tokenizer) as engine:
            yield engine

    async def close(self) -> None:
        await self._model.close()

    # One trajectory

    async def _row(self, ids: list[int], wanted: list[int], temperature: float | None = None) -> ServedRow:
        """Return the log-probabilities of the tokens at the positions `wanted`."""
        too_long = (
            f"The trajectory has {len(ids)} tokens, and the server may sample one more. If the sum exceeds the server's context, "
            "start it with a longer one (vLLM: --max-model-len), or lower rollout.max_tokens."
        )
        async with self._slots:
            with self._occupancy:
                ask = functools.partial(self._model.ask, too_long=too_long)
                row = await self._dialect.row(ask, ids, wanted, temperature)
        self._costs.update(dict(zip(COSTS, (row.sent, row.cached, row.returned, row.requests), strict=True)))
        return row

    def _check(self, logprobs_BT: Tensor) -> None:
        broken = logprobs_BT[~(logprobs_BT.isfinite() & (logprobs_BT > IMPOSSIBLE))]
        if len(broken):
            raise ModelError(
                f"{self._model} returned log-probabilities such as {broken[0].item()} for {len(broken)} tokens: its model "
                "computes numbers that are not finite. Start it with another --dtype."
            )
        if logprobs_BT.numel() and (highest := logprobs_BT.max().item()) > ROUNDING:
            raise ModelError(
                f"{self._model} returned a log-probability of {highest:.2g}, but none can be above 0. Start it without "
                "--logprobs-mode raw_logits or processed_logits."
            )

    # Checks

    async def _meet(self, options: ScoreOptions, rollout: SamplingOptions) -> None:
        ids = self._encode(PROBE_TEXT)
        await self._model.meet(options.teacher_served_name)
        self._dialect = await recognised(self._model, self._tokenizer, options, ids)
        self.has_bounds, self.has_spans = not self._dialect.exact, self._translation is not None
        self.scores_tokens = not self.has_bounds and not self.has_spans
        self._slots = asyncio.Semaphore(self._dialect.at_once)
        if self._translation is None:
            self._model.check_context(_longest(rollout) + 1, "rollout.max_prompt_tokens + rollout.max_tokens + 1")
        else:
            self._limit = self._model.context and self._model.context - 1  # a server may sample a token more
        question = self._dialect.tokenize(PROBE_TEXT)
        await self._model.check_tokenizer(PROBE_TEXT, ids, self._tokenizer.name_or_path, question)

    async def _prove(self, folder: Path, network: ModelOptions, rollout: SamplingOptions) -> None:
        """Raises ModelError unless the server's scores repeat, and equal those of the weights in `folder`."""
        tolerance = TOLERANCE if dtype_of(network) == "float32" else COARSE_TOLERANCE
        probe = proof_batch(self._text[: min(self._dialect.probe_tokens, _longest(rollout))])
        server_BT, outside_BT = await self._read(probe)
        self._first = server_BT[0].tolist()
        off = mean_gap(server_BT, (await self.score(probe)).logprobs_BT, probe)
        if not off <= tolerance:
            raise ModelError(
                f"{self._model} is not deterministic: its log-probabilities of the same tokens differ by {off:.2g} nats between "
                f"two requests (allowed: {tolerance})."
            )
        await self._check_places(server_BT[0].tolist(), outside_BT[0].tolist(), probe.trajectories[0].ids, tolerance)
        if unchecked := why_unchecked(folder, network):
            logger.warning(f"{unchecked}, so the weights are not checked. {self._model} may serve another model.")
            if unused := unused_beside(folder, id_count(self._tokenizer)):
                logger.warning(
                    f"The teacher's head has {len(unused)} ids without a token. The server gives them a share of the "
                    "probability, so its log-probabilities are too low by that share. The share cannot be measured here."
                )
            return
        self._allowed = min(SAME, tolerance)
        local_BT = await compute(local_logprobs, folder, network, probe)
        if (bound_BT := outside_BT & (local_BT <= server_BT + tolerance)).any():
            server_BT = torch.where(bound_BT, local_BT, server_BT)
        off = mean_gap(server_BT, local_BT, probe)
        if not off <= tolerance:
            theirs, ours = (mean_BT[probe.mask_BT].mean().item() for mean_BT in (server_BT, local_BT))
            what, advice = (
                (
                    "computes in a lower precision than allowed",
                    "Start it with --dtype float32, or pass --score.teacher_dtype bfloat16.",
                )
                if off <= COARSE_TOLERANCE
                else ("serves another model", f"Serve the model in {folder}, or pass the served model as --teacher.")
            )
            raise ModelError(
                f"{self._model} {what}: its mean log-probability over {int(probe.mask_BT.sum())} tokens of text is {theirs:.4f} "
                f"nats, that of the model in {folder} is {ours:.4f}; the mean difference per token is {off:.2g} (allowed: "
                f"{tolerance}). {advice}"
            )

    async def _check_places(
        self, values: list[float], outside: list[bool], ids: Sequence[int], tolerance: float
    ) -> None:
        """Raises ModelError unless another last token changes its own log-probability and no other, at any temperature.

        A server whose log-probabilities are shifted by one token fails. So does one that scales them by a request's temperature.
        """
        changed = [*ids[:-1], next(id for id in ids if id != ids[-1])]
        now = await self._row(changed, list(range(1, len(ids))), 1.0)
        off = sum(abs(one - other) for one, other in zip(now.logprobs[:-1], values[:-1], strict=True)) / (len(ids) - 1)
        both_outside = outside[-1] and now.outside[-1]
        if not off <= tolerance or (abs(now.logprobs[-1] - values[-1]) < UNCHANGED and not both_outside):
            raise ModelError(
                f"{self._model} returns log-probabilities that belong to other positions, or that depend on the request's "
                f"temperature: with another last token and temperature 1, those of the tokens before it differ by {off:.2g} "
                f"nats, and its own by {abs(now.logprobs[-1] - values[-1]):.2g}. Update the server, or use another one."
            )

    async def _prove_again(self) -> None:
        """Raises ModelError unless the server is back from an outage with the same model."""
        if not self._first:
            return
        ids = self._text[: len(self._first)]
        self._compare(
            (await self._dialect.row(self._model.ask_now, ids, list(range(1, len(ids))))).logprobs, self._allowed
        )

    def _compare(self, values: Sequence[float], allowed: float) -> None:
        """Raises ModelError unless these are the log-probabilities of TEXT at the start."""
        off = sum(abs(one - other) for one, other in zip(values, self._first, strict=True)) / (len(self._first) - 1)
        if not off <= allowed:
            raise ModelError(
                f"{self._model} has changed its model: its log-probabilities differ from those before by {off:.2g} nats "
                f"(allowed: {allowed}). Start it with the first model, then continue: `sod train` with --resume, `sod "
                "eval` by running the same command."
            )

    @property
    def _text(self) -> list[int]:
        return self._encode(TEXT)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, verbose=False)


def _backwards(batch: Batch, wanted: Sequence[list[int]]) -> Iterator[tuple[int, tuple[Trajectory, list[int]]]]:
    """Yield each row with its number, the last one first, so that the first one of a prompt remains in a mapping."""
    return reversed(list(enumerate(zip(batch.trajectories, wanted, strict=True))))


def _longest(rollout: SamplingOptions) -> int:
    return rollout.max_prompt_tokens + rollout.max_tokens
