"""`sod rollout`: write the best trajectories of a model as demonstrations, to fine-tune another model on.

It is an evaluation (`sod.evaluation.evaluate`) that keeps right trajectories. For each problem it prefers few tool errors, then
short trajectories. The same command continues an interrupted run.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from sod.chat.calls import words_and_calls
from sod.chat.format import ChatFormat
from sod.config import RolloutCommandOptions
from sod.console.progress import echo
from sod.datasets import ProblemSet
from sod.datasets.published import BENCHMARKS
from sod.datasets.rows import Row
from sod.datasets.several import open_sets
from sod.datasets.writing import lines, replace
from sod.engines.choice import with_engine
from sod.errors import DataError, TemplateError
from sod.evaluation.evaluate import evaluate, with_chosen
from sod.evaluation.results import show_results
from sod.model.dtypes import with_dtype
from sod.model.hub import model_folder
from sod.planning.dry_run import show_dry_run
from sod.rollout.harness import Harness
from sod.runs.directory import Run
from sod.runs.records import from_record
from sod.runs.samples import SampleFile
from sod.types import MalformedCall, Message, Problem, Schema, ToolCall, Trajectory

logger = logging.getLogger(__name__)


def demonstrate(options: RolloutCommandOptions) -> None:
    """Sample, judge, and write the best trajectories. Raises DataError if no trajectory can be used."""
    if options.dry_run:
        show_dry_run(with_engine(with_dtype(options)))
        return
    options = with_chosen(options)
    sets = open_sets(options)
    _check(options, sets)
    show_results(evaluate(options))
    folder = model_folder(options.model, weights=False)
    harness = Harness.of(folder, options, [problem for each in sets for problem in each.problems], again=True)
    counts: Counter[str] = Counter()
    run = Run(options.out)
    with run.held(), SampleFile.open(run.trajectory_file(0)) as samples:
        rows = [row for each in sets for row in _kept(each, samples, harness, options, counts)]
    if counts["unusable"]:
        logger.warning(f"{counts['unusable']} right trajectories cannot be written as messages and are left out.")
    if not rows:
        raise DataError(
            "There are no demonstrations, because no trajectory is right. Pass a stronger --model, or more --samples."
        )
    out = options.demonstrations or options.out / "demonstrations.jsonl"
    replace(out, lines(rows))
    echo(
        f"{len(rows)} demonstrations of {counts['problems']} problems, from {counts['right']} right trajectories: {out}"
    )


def _check(options: RolloutCommandOptions, sets: Sequence[ProblemSet]) -> None:
    """Check the options before the first token is sampled. Raises DataError."""
    for each in sets:
        if each.private:
            raise DataError(
                f"{each.name} cannot be made into demonstrations: its authors ask not to publish its examples. Pass other data."
            )
        if each.name in BENCHMARKS:
            logger.warning(
                f"careful: {each.name} is a benchmark. A model trained on these demonstrations cannot be evaluated on it."
            )
    if options.demonstrations is not None and options.demonstrations.exists():
        raise DataError(f"{options.demonstrations} exists already. Move it away, or choose another --demonstrations.")


def _kept(
    of: ProblemSet, samples: SampleFile, harness: Harness, options: RolloutCommandOptions, counts: Counter[str]
) -> Iterator[Row]:
    """Yield the demonstrations of a set, problem by problem."""
    for problem in of.problems:
        keys = [key for key in ((problem.id, sample) for sample in range(options.samples)) if key in samples]
        right = ranked(from_record(samples.read(key), problem, harness.chat.final_text) for key in keys)
        made = [written_demonstration(each, harness.chat, harness.tools.schemas) for each in right]
        usable = [row for row in made if row is not None]
        counts["right"] += len(right)
        counts["unusable"] += len(made) - len(usable)
        counts["problems"] += bool(usable)
        for row in usable[: options.keep]:
            yield row | {"source": of.name} | surroundings_of(problem)


def surroundings_of(problem: Problem) -> Row:
    """Return the columns that tell the problem from others of equal text, so that checks of overlaps find it."""
    columns = {"environment": problem.environment, "setting": dict(problem.setting), "files": dict(problem.files)}
    return {name: cell for name, cell in columns.items() if cell}


def ranked(attempts: Iterable[Trajectory]) -> list[Trajectory]:
    """Return the right attempts: those with the fewest tool errors first, then the shortest."""
    right = [attempt for attempt in attempts if attempt.judged.is_right]
    return sorted(right, key=lambda attempt: (attempt.tool_errors, attempt.response_tokens, attempt.sample))


def written_demonstration(attempt: Trajectory, chat: ChatFormat, tools: Sequence[Schema]) -> Row | None:
    """Return a trajectory as messages in OpenAI's format. None if messages would not reproduce its observations.

    Turns with a malformed call, or a call of an unknown tool, are kept as context with `weight` 0 and are not learnt.
    """
    messages: list[Message] = list(attempt.messages or attempt.problem.messages)
    tools = attempt.tools if attempt.messages else tools
    calls: Sequence[ToolCall | MalformedCall] = ()
    for piece in attempt.pieces[1:]:
        if piece.author == "student":
            messages.append(_turn(piece.tokens, chat, tools))
            calls = chat.calls(piece.tokens, tools)
            continue
        if piece.author == "user":
            if (text := chat.replied(piece.tokens)) is None:
                return None
            messages.append({"role": "user", "content": text})
            continue
        names = [call.name if isinstance(call, ToolCall) else tools[0]["function"]["name"] for call in calls]
        texts = chat.observed(piece.tokens, len(piece.outcomes), names)
        if texts is None:
            return None
        messages += [{"role": "tool", "content": text} for text in texts]
    with suppress(TemplateError):
        chat.render(messages, tools)  # as `sod sft` will
        id = f"{attempt.problem.id}/{attempt.sample}"
        return {
            "id": id,
            "messages": messages,
            "tools": list(tools),
            "answer": attempt.judged.answer,
            "errors": attempt.tool_errors,
        }
    return None


def _turn(tokens: Sequence[int], chat: ChatFormat, tools: Sequence[Schema]) -> Message:
    """Return a turn as a message. A turn with a call that no tool can answer gets `weight` 0: context, not learnt."""
    text, calls = chat.text(tokens), chat.calls(tokens, tools)
    known = {tool["function"]["name"] for tool in tools}
    if any(isinstance(call, MalformedCall) or call.name not in known for call in calls):
        return {"role": "assistant", "content": text, "weight": 0}
    if (
        found := words_and_calls(text, chat.syntax, tools)
    ) is None:  # no call, or text between calls, which a message cannot represent
        return {"role": "assistant", "content": text}
    words, calls = found
    functions = [{"name": call.name, "arguments": call.arguments} for call in calls]
    return {
        "role": "assistant",
        "content": words.removesuffix("\n"),
        "tool_calls": [{"type": "function", "function": function} for function in functions],
    }
