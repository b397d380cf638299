"""Rolling out 64 trajectories of three to six turns with slow tools: against the engine alone, and against TRL.

    python benchmarks/rollout.py            # `make bench-peers` installs TRL; without it, its rows are left out

The lab's trained teacher writes; a tool call takes 50 ms or 1 s. "The engine alone" reads and writes the same tokens
without agent, tools and judge. In a world, the student writes as many tokens as its expert's turns have, and the expert's
turns are returned: every attempt has the length of a good one. TRL 1.16.0 has the same model, tokenizer, prompts and tools
(`trl_peer.py`); it runs tools one after another, so with 1 s tools it is measured once.
"""

import asyncio
import time
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from lab import Lab, SlowTool, sampled
from measure import Row, in_turn, pairwise_ratios, parse, parser, per_second, report, row, show

from sod.config import RolloutOptions
from sod.engines import Reply, Request
from sod.engines.hf import HFEngine
from sod.environments.running import Environments
from sod.environments.worlds.base import turn_of
from sod.environments.worlds.shop import Shop
from sod.lab import settings
from sod.rollout.groups import attempt_seed, rollout
from sod.tools import Toolbox
from sod.types import Problem, ToolCall

GROUP = 8


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


class ExpertEngine(HFEngine):
    """Samples as many tokens as the expert's turn has, and returns that turn."""

    def expect(self, turns: dict[int, list[list[int]]]) -> None:
        """Set the expert's turns of each attempt, by its seed."""
        self._turns = turns

    async def sample(self, request: Request) -> Reply:
        assert request.trajectory is not None
        turn = self._turns[request.trajectory][request.seed - request.trajectory]
        reply = await super().sample(replace(request, max_tokens=len(turn), stops=()))
        return Reply(tuple(turn), reply.logprobs, "stop")


def expert_turns(lab: Lab, problem: Problem) -> list[list[int]]:
    world, turns, is_over = Shop.opened(problem.setting["level"], problem.setting["number"]), [], False
    while not is_over:
        turn = turn_of(world.expert(), Shop)
        calls = [{"type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in turn.calls]
        message = {"role": "assistant", "content": turn.text} | ({"tool_calls": calls} if calls else {})
        turns.append(lab.chat.turn(message, Shop.schemas()))
        is_over = world.play(turn).is_over
    return turns


def in_a_world(lab: Lab, rounds: int, count: int) -> Row:
    """Roll out in a world, against the engine alone."""
    problems = [Shop.problem(1 + number % 3, number) for number in range(count)]
    engine = ExpertEngine(lab.model, slots=count * GROUP)
    engine.expect(
        {
            attempt_seed(0, 0, problem.id, sample): expert_turns(lab, problem)
            for problem in problems
            for sample in range(GROUP)
        }
    )
    options = RolloutOptions.model_validate(settings.WORLD_ROLLOUT | {"group": GROUP})
    agent = replace(lab.agent(SlowTool(0), engine), options=options, environments=Environments(Toolbox([])))
    groups = asyncio.run(rollout(agent, problems, seed=0, update=0))
    trajectories = [trajectory for group in groups for trajectory in group]
    assert len(trajectories) == count * GROUP
    assert all(trajectory.judged.is_right for trajectory in trajectories)
    times = in_turn(
        {
            "ours": lambda: asyncio.run(rollout(agent, problems, seed=0, update=0)),
            "engine": lambda: lab.write_again(groups),
        },
        rounds,
    )
    tokens = sampled(groups)
    return row(
        f"rollout of {len(trajectories)} trajectories in the world shop: tokens/s",
        f"{per_second(tokens, times['ours'])}, {sum(len(each.turns) for each in trajectories)} turns",
        f"the engine alone: {per_second(tokens, times['engine'])}",
        pairwise_ratios(times["engine"], times["ours"]),
        ">= 0.9",
    )


def of_the_contract(lab: Lab, rollouts: list[float], work: list[int], rounds: int, problems: int) -> Row:
    """Return the share of a rollout's seconds that the environment's contract takes, with the default environment.

    The tools are called with the contract and without it, as often as in the rollout.
    """
    toolbox = Toolbox([SlowTool(0)])
    environments = Environments(toolbox)
    attempts = problems * GROUP
    call, calls = ToolCall(name="code_interpreter", arguments={"code": "print(1)"}), max(1, round(work[2] / attempts))

    async def with_contract() -> None:
        for _ in range(attempts):
            async with environments.opened(lab.problems[0], 0) as (environment, _):
                for _ in range(calls):
                    await environment.answer("", [call], 0)
                await environment.answer("1", [], 0)
                await environment.verdict("1")

    async def without() -> None:
        for _ in range(attempts):
            opened = await toolbox.open(lab.problems[0], 0)
            for _ in range(calls):
                await opened.answer([call])
            await opened.close()

    times = in_turn({"with": lambda: asyncio.run(with_contract()), "without": lambda: asyncio.run(without())}, rounds)
    shares = [(a - b) / c for a, b, c in zip(times["with"], times["without"], rollouts, strict=True)]
    return row(
        f"rollout of {attempts} trajectories, 50 ms tools: share of the environment's contract",
        f"{1e3 * min(times['with']) / attempts:.2f} ms an attempt of {calls} calls, with the contract",
        f"{1e3 * min(times['without']) / attempts:.2f} ms, the tools alone",
        shares,
        "<= 0.02",
    )


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
        if seconds < 0.1 and len(rows) == 1:
            rows.append(of_the_contract(lab, ours, work, options.rounds, problems))
        if find_spec("trl"):
            start = time.perf_counter()
            made, theirs = against_trl(lab, seconds, ours, work, rounds, problems, target)
            details[f"trl_seconds_{1e3 * seconds:g}_ms"] = [*theirs, time.perf_counter() - start]
            rows.append(made)
    rows.append(in_a_world(lab, options.rounds, problems))
    report(options, rows, **details)


if __name__ == "__main__":
    main()
