"""`sod sft`, the cold start: fine-tune a model on demonstrations, rendered by the same functions as rollouts."""

import logging
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path

from sod.batching import DemonstrationRow, collate_demonstrations, demonstration_row
from sod.chat.conversations import CallStatistics, Demonstration
from sod.chat.format import ChatFormat
from sod.config import SftOptions
from sod.console.progress import Display, echo
from sod.datasets.overlap import ProblemIdentity
from sod.datasets.rows import load_demonstrations
from sod.errors import DataError, TemplateError
from sod.model.devices import FINE_TUNING, device_errors
from sod.model.dtypes import with_dtype
from sod.model.hub import model_folder
from sod.model.loading import check_context, check_embeddings, load_model, load_tokenizer, positions_of
from sod.model.policy import Policy, load_learner, origin
from sod.planning.changes import fingerprints_of
from sod.planning.checks import check, of_fine_tuning
from sod.planning.dry_run import show_dry_run
from sod.processes.distributed import Ranks, joined
from sod.processes.interrupts import Terminated, held_back, noted
from sod.runs.contents import content_digests
from sod.runs.directory import Run
from sod.tools.python import INTERPRETER
from sod.trackers.sending import tracked
from sod.validation.cold_start import SolveRates
from sod.validation.imitating import LossValidator
from sod.validation.sets import held_out_demonstrations, questions_of, warn_of_overlap

logger = logging.getLogger(__name__)


def sft(options: SftOptions) -> Run:
    """Fine-tune a model. The result is the newest checkpoint of the run."""
    options = with_dtype(options)
    if options.dry_run:
        show_dry_run(options)
        return Run(options.out)
    with joined(options.processes, options.network.device) as ranks:
        return _sft(options, ranks)


def _sft(options: SftOptions, ranks: Ranks) -> Run:
    check(of_fine_tuning(options, ranks.count))
    run = Run(options.out)
    with run.held(ranks):
        ranks.first(lambda: run.check(options, resume=options.resume))
        _learn(options, run, ranks)
    return run


def _learn(options: SftOptions, run: Run, ranks: Ranks) -> None:
    demonstrations = load_demonstrations(options.data)
    held_out = held_out_demonstrations(options.validate)
    learnt = questions_of(demonstrations, options.data.parent)
    for path in map(Path, options.validate.data):
        warn_of_overlap(path.stem, questions_of(held_out[path.stem], path.parent), learnt)
    batches_per_epoch = math.ceil(len(demonstrations) / options.batch)
    steps = options.steps or max(1, round(options.epochs * batches_per_epoch))
    start_model = model_folder(options.model)
    tokenizer = load_tokenizer(start_model)
    chat = ChatFormat.of(tokenizer, options.chat)
    start, folder = ranks.first(run.take_up) if options.resume else (0, None)
    model_to_load = origin(start_model, folder, options.learn)
    # With several processes, the full model is only used for saving.
    home = options.network if ranks.alone else options.network.model_copy(update={"device": "cpu"})
    model = load_model(model_to_load, home)
    check_embeddings(model, tokenizer, start_model)
    for line in [chat.note, *oddities(demonstrations, chat)]:
        if line:
            logger.warning(line)
    positions = positions_of(model)
    if options.max_tokens > positions:
        logger.info(
            f"max_tokens is {positions}, the number of positions of the model, instead of {options.max_tokens}."
        )
    longest = min(options.max_tokens, positions)
    rows = render_all(chat, demonstrations, longest)
    held_out_rows = {name: render_all(chat, each, longest) for name, each in held_out.items()}
    files = ranks.first(lambda: fingerprints_of(options.model_copy(update={"model": start_model})))
    solver = SolveRates.open(options, start_model)
    if solver:
        check_context(model, solver.options.rollout)
        for each in solver.sets:
            warn_of_overlap(each.name, list(map(ProblemIdentity.of, each.problems)), learnt)
    learner = None if ranks.alone else load_learner(model_to_load, options.network, ranks)
    total_steps = steps if options.schedule == "cosine" else None
    policy = Policy(model, chat.tokenizer, options.learn, total_steps=total_steps, learner=learner, ranks=ranks)
    if folder:
        policy.restore(folder)
    contents = ranks.first(lambda: content_digests(options))
    ranks.first(
        lambda: Run.open(options, options.out, data=files, files=contents, resume=options.resume, updates=steps)
    )
    if options.resume:
        ranks.first(lambda: run.rewind(start))
        ranks.first(lambda: run.write_options(options))
    validator = LossValidator.open(options, run, held_out_rows, policy, ranks, solver)
    _steps(options, run, rows, policy, validator, ranks, range(start, steps), saved=start if folder else -1)
    echo(run.conclusion())


def _steps(
    options: SftOptions,
    run: Run,
    rows: Sequence[DemonstrationRow],
    policy: Policy,
    validator: LossValidator | None,
    ranks: Ranks,
    left: range,
    saved: int,
) -> None:
    """Take the steps that are left. `saved`: the number of steps in the newest checkpoint; -1 without one."""
    steps = left.stop

    def save(step: int) -> None:
        nonlocal saved
        if step > saved:
            run.save(step, policy.save, keep=options.keep, ranks=ranks)
            saved = step

    with (
        tracked(run, options, ranks) as tracking,
        Display("fine-tuning", total=steps, done=left.start) as display,
        held_back(),
    ):
        if validator:
            validator.course.on_validation = tracking.log_validation
        for step in left:
            if validator and validator.validate(step, steps, save, display):
                break
            chosen = [rows[row] for row in pick(step, len(rows), options)]
            began, tokens = time.monotonic(), sum(len(ids) for ids, _ in chosen)
            with device_errors("learning", FINE_TUNING):
                metrics = policy.imitate(*collate_demonstrations(chosen))
            seconds = time.monotonic() - began
            row = {f"learn/{name}": value for name, value in metrics.items()} | pace(seconds, tokens)
            if ranks.is_first:
                run.record(step + 1, row)
            tracking.log(step + 1, row)
            last = step + 1 == steps
            display.done(
                f"step {step + 1}/{steps}  loss {metrics['loss']:.3f}  lr {metrics['lr']:.1e}  {tokens / seconds:,.0f} tok/s",
                due=last or (step + 1) % max(1, steps // 10) == 0,
            )
            ending = max(ranks.gather(noted()))
            if last or ending or (step + 1) % options.save_every == 0:
                save(step + 1)
            if ending and not last:
                raise Terminated(ending, agreed=True)
        else:
            if validator:
                validator.validate(steps, steps, save, display)


def pace(seconds: float, tokens: int) -> dict[str, float]:
    """Return the metrics of a step's speed. `tokens`: of its conversations, with prompts and tool outputs."""
    return {"seconds/update": seconds, "learn/tokens": tokens, "speed/learn_tokens_per_second": tokens / seconds}


def oddities(demonstrations: Sequence[Demonstration], chat: ChatFormat) -> list[str]:
    """Return the warnings of `sod data check` about the calls in demonstrations."""
    use = CallStatistics()
    for demonstration in demonstrations:
        use.add(demonstration)
    return list(use.warnings([INTERPRETER], shown=chat.shows_tools))


def pick(step: int, count: int, options: SftOptions) -> list[int]:
    """Return the conversations of a training step. They depend only on the seed and the step."""
    per_epoch = math.ceil(count / options.batch)
    epoch, place = divmod(step, per_epoch)
    order = list(range(count))
    if options.shuffle:
        random.Random(f"{options.seed}/{epoch}").shuffle(order)
    return order[place * options.batch : (place + 1) * options.batch]


def render_all(chat: ChatFormat, demonstrations: Sequence[Demonstration], max_tokens: int) -> list[DemonstrationRow]:
    """Return all conversations as tokens and loss masks. This is done before training, so that an error appears first."""
    rows, cut = [], 0
    with Display("rendering", total=len(demonstrations)) as display:
        for number, demonstration in enumerate(demonstrations, 1):
            try:
                pieces = chat.render(demonstration.messages, demonstration.tools)
            except TemplateError as error:
                raise DataError(f"Demonstration {number} cannot be rendered: {error}") from error
            rows.append(demonstration_row(pieces, max_tokens))
            if not rows[-1][1].any():
                raise DataError(
                    f"Demonstration {number} has no token to learn within max_tokens = {max_tokens}. Increase --max-tokens, or "
                    "remove the demonstration."
                )
            cut += sum(len(piece.tokens) for piece in pieces) > max_tokens
            display.done()
    if cut:
        logger.warning(f"{cut} conversations were longer than max_tokens = {max_tokens} and were cut at the right.")
    return rows
