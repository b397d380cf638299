"""Measure a model: many samples per problem, and how sure the numbers are."""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from sod import metrics
from sod.agent import Agent, check_prompts
from sod.batching import collate, join
from sod.chat import ChatFormat
from sod.concurrency import Runner
from sod.config import AlgorithmOptions, EvalOptions
from sod.data import fingerprint, fingerprint_model, load_problems
from sod.engines.opening import open_engine
from sod.models import check_context, check_embeddings, load_model, load_tokenizer
from sod.progress import Display, say
from sod.rewards.referee import Referee
from sod.rollout import rollout
from sod.runs import Run
from sod.sandbox.guarded import open_sandbox
from sod.scoring import Scorer, check_enough
from sod.teachers.local import LocalTeacher
from sod.tools import Toolbox
from sod.tools.python import PythonTool
from sod.types import Group

Results = dict[str, float]


def evaluate(options: EvalOptions) -> Results:
    """Sample, judge, write results and trajectories to the run directory, and return the results."""
    problems = load_problems(options.data)[: options.limit]
    sandbox = open_sandbox(options.sandbox)
    referee = Referee(sandbox, options.reward, max_tokens=options.rollout.max_tokens)
    referee.check(problems)
    tokenizer = load_tokenizer(options.model)
    chat = ChatFormat.of(tokenizer, options.chat)
    model = load_model(options.model, options.network)
    tokens, temperature = options.microbatch_tokens, options.rollout.temperature
    check_embeddings(model, tokenizer, options.model)
    limits = options.rollout.model_copy(update={"group": options.samples})
    check_context(model, limits)
    teacher = options.teacher and LocalTeacher(
        options.teacher, tokenizer, options.network, options.score, limits, microbatch_tokens=tokens
    )
    tools = Toolbox([PythonTool(sandbox, options.tool)], faults=options.tool.faults)
    check_prompts(chat, tools, limits, problems)
    with Runner() as loop, sandbox.working_in(loop):
        files = {"data": fingerprint(options.data)}
        if options.teacher:
            files["teacher"] = fingerprint_model(options.teacher)
        run = Run.open(options, options.out, data=files)
        with open_engine(loop, options.engine, model, limits) as engine:
            agent = Agent(engine, chat, tools, referee, limits)
            with Display("evaluate", total=1) as display, display.phase("sample", len(problems) * options.samples):
                advance = lambda _: display.advance()  # noqa: E731
                groups = loop.run(rollout(agent, problems, seed=options.seed, update=0, on_trajectory=advance))
    ungraded = [trajectory for group in groups for trajectory in group.ungraded]
    graded = [trajectory for group in groups for trajectory in group]
    unscored = metrics.unscored_rows(ungraded, tokenizer.decode)
    run.write_trajectories(0, metrics.unscored_rows(graded, tokenizer.decode) + unscored)  # safe before all else
    check_enough(groups)
    batch = collate(groups)
    if teacher:
        scorer = Scorer(
            model, teacher, temperature=temperature, microbatch_tokens=tokens, student_from=options.score.student
        )
        batch = join([scorer.score_now(group) for group in groups])
    results = summary(groups) | metrics.of_rollout(groups) | metrics.of_steps(batch, AlgorithmOptions())
    times = sandbox.take_statistics().metrics()
    run.record(
        0, results | times, metrics.rows(batch, AlgorithmOptions(), tokenizer.decode, limit=len(batch)) + unscored
    )
    run.write_results(results)
    return results


def summary(groups: Sequence[Group]) -> Results:
    """avg@n, pass@n and maj@n over problems, with the standard error that new problems would add.

    Problems none of whose attempts could be graded are left out, and counted.
    """
    scored = [group for group in groups if len(group)]
    solved = [fmean(t.correct for t in group) for group in scored]
    return {
        "problems": len(scored),
        "problems_lost": len(groups) - len(scored),
        "samples": max((len(group) for group in scored), default=0),
        "avg": fmean(solved) if solved else 0.0,
        "avg_se": standard_error(solved),
        "pass": fmean(any(t.correct for t in group) for group in scored) if scored else 0.0,
        "maj": fmean(majority(group) for group in scored) if scored else 0.0,
        "no_answer": fmean(t.answer is None for group in scored for t in group) if scored else 0.0,
    }


def standard_error(values: Sequence[float]) -> float:
    """Standard deviation of the values over the root of their number: the error of their mean."""
    if len(values) < 2:
        return 0.0
    mean = fmean(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def majority(group: Group) -> float:
    """1 if the most frequent answer is right, 0 if not; a tie is shared. No answer is no vote."""
    votes = Counter(t.answer for t in group if t.answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    right = {t.answer for t in group if t.correct}
    return sum(answer in right for answer in tied) / len(tied)


def evaluate_and_show(options: EvalOptions) -> None:
    say(show(evaluate(options)))
    say(f"results and trajectories: {options.out}")


def show(results: Results) -> str:
    """The results as a table of plain text."""
    n = round(results["samples"])
    rows = [
        (
            f"avg@{n}",
            f"{results['avg']:.1%} ± {results['avg_se']:.1%}  (standard error over {results['problems']:.0f} problems)",
        ),
        (f"pass@{n}", f"{results['pass']:.1%}"),
        (f"maj@{n}", f"{results['maj']:.1%}"),
        ("no answer", f"{results['no_answer']:.1%}"),
        ("tool calls", f"{results['tools/calls']:.2f} per trajectory"),
        ("tool errors", f"{results['tools/errors']:.2f} per trajectory"),
        ("steps", f"{results['rollout/turns']:.2f} per trajectory"),
        ("tokens", f"{results['rollout/tokens']:.0f} per trajectory"),
    ]
    if "steps/d" in results:
        rows.append(("divergence", f"{results['steps/d']:.3f} nats (mean of d over steps)"))
    if results["rollout/ungraded"]:
        rows.append(("ungraded", f"{results['rollout/ungraded']:.0f} attempts that no judge could decide; not counted"))
    if results["rollout/dropped"]:
        rows.append(("dropped", f"{results['rollout/dropped']:.0f} attempts, lost to our own machinery"))
    return "\n".join(f"{name:<12} {value}" for name, value in rows)
