"""Rolling out 64 trajectories of three to six turns with slow tools: against the engine alone, and against TRL.

    python benchmarks/rollout.py            # `make bench-peers` installs TRL; without it, its rows are left out

The lab's trained teacher writes; a tool call takes 50 ms or 1 s. "The engine alone" reads and writes the same tokens
without agent, tools and judge. TRL 1.16.0 has the same model, tokenizer, prompts and tools (`trl_peer.py`); it runs tools one
after another, so with 1 s tools it is measured once.
"""

import time
from importlib.util import find_spec
from typing import Any

from lab import Lab, SlowTool, sampled
from measure import Row, in_turn, pairwise_ratios, parse, parser, per_second, report, row, show


def against_the_engine(lab: Lab, seconds: float, rounds: int, problems: int) -> tuple[Row, list[float], list[int]]:
    """-> the row; seconds of each rollout; its tokens, turns and calls"""
    agent = lab.agent(SlowTool(seconds))
    groups = lab.roll_out(agent, problems)
    times = in_turn({"ours": lambda: lab.roll_out(agent, problems), "engine": lambda: lab.write_again(groups)}, rounds)
    trajectories = [trajectory for group in groups for trajectory in group]
    work = [
        sampled(groups),
        sum(len(trajectory.turns) for trajectory in trajectories),
        sum(sum(trajectory.outcomes.values()) for trajectory in trajectories),
    ]
    made = row(
        f"rollout of {len(trajectories)} trajectories, {1e3 * seconds:g} ms tools: tokens/s",
        f"{per_second(work[0], times['ours'])}, {show(times['ours'])}",
        f"the engine alone: {per_second(work[0], times['engine'])}",
        pairwise_ratios(times["engine"], times["ours"]),
        ">= 0.8" if seconds < 1 else "",
    )
    return made, times["ours"], work


def against_trl(
    lab: Lab, seconds: float, ours: list[float], work: list[int], rounds: int, problems: int, target: str
) -> tuple[Row, list[Any]]:
    import trl_peer

    from sod.lab.make import TEACHER_FOLDER

    chats = [list(problem.messages) for problem in lab.problems[:problems]]
    tool = trl_peer.code_interpreter(SlowTool(seconds).blocking)
    limit = lab.limits["max_tokens"]
    batches = trl_peer.rollout(
        TEACHER_FOLDER, chats, [tool], rounds=rounds, warm=rounds > 1, max_completion_length=limit
    )
    theirs = [batch.rollout_seconds for batch in batches]
    middle = sorted(ours)[len(ours) // 2]
    last = batches[-1]
    return row(
        f"rollout of {last.trajectories} trajectories, {1e3 * seconds:g} ms tools: trajectories/s",
        f"{last.trajectories / middle:.1f}/s ({work[0]:,} tokens, {work[1]} turns, {work[2]} calls)",
        f"TRL 1.16.0: {last.trajectories / sorted(theirs)[len(theirs) // 2]:.2f}/s ({last.tokens_sampled:,} tokens, "
        f"{last.turns} turns, {last.tool_calls} calls)",
        [their / middle for their in theirs],
        target,
    ), theirs


def main() -> None:
    options = parse(parser(__doc__))
    problems = 8 if not options.quick else 1
    lab = Lab(problems)
    rows, details = [], {}
    for seconds, target, rounds in ((0.05, ">= 5", options.rounds), (1.0, ">= 15", 1)):
        if options.quick:
            seconds /= 10
        made, ours, work = against_the_engine(lab, seconds, options.rounds, problems)
        rows.append(made)
        if find_spec("trl"):
            start = time.perf_counter()
            made, theirs = against_trl(lab, seconds, ours, work, rounds, problems, target)
            details[f"trl_seconds_{1e3 * seconds:g}_ms"] = [*theirs, time.perf_counter() - start]
            rows.append(made)
    report(options, rows, **details)


if __name__ == "__main__":
    main()
