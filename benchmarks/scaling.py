"""How time grows with the number of trajectories, the tokens of a turn, the turns of a trajectory, and a tool's latency.

    python benchmarks/scaling.py

Through the whole rollout (agent, tools, judge) with the lab's trained teacher for the number of trajectories, and through the
engine with made-up observations for the rest. Reported is the exponent e of seconds = c * size^e, fitted on logarithms: 1
is a cost per token that does not grow. For latency it is the seconds that a rollout gains for a second that a tool takes.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from statistics import median

import torch
from lab import Lab, SlowTool, sampled
from measure import in_turn, parse, parser, report, row
from torch import Tensor

from sod.engines import Request
from sod.engines.hf import HFEngine

SHAPE = {"trajectories": 32, "turns": 4, "tokens": 32, "latency": 0.0}
OBSERVATION = 16


def shaped(engine: HFEngine, *, trajectories: int, turns: int, tokens: int, latency: float) -> None:
    """Roll out trajectories of exactly this shape."""

    def some(number: int, count: int) -> list[int]:
        return torch.randint(5, 400, (count,), generator=torch.Generator().manual_seed(number)).tolist()

    async def one(number: int) -> None:
        ids = some(number, 40)
        for turn in range(turns):
            request = Request(ids=ids, max_tokens=tokens, stops=(), seed=1000 * number + turn, trajectory=number)
            ids = [*ids, *(await engine.sample(request)).tokens, *some(number, OBSERVATION)]
            if turn + 1 < turns:
                await asyncio.sleep(latency)
        engine.release(number)

    async def everything() -> None:
        await asyncio.gather(*map(one, range(trajectories)))

    asyncio.run(everything())


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    x, y = (torch.tensor([math.log(value) for value in values]) for values in (sizes, seconds))
    return _slope(x, y)


def _slope(x: Tensor, y: Tensor) -> float:
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def main() -> None:
    options = parse(parser(__doc__))
    most = 1024 if not options.quick else 16
    lab = Lab(most // 8)
    agent = lab.agent(SlowTool(0.0))
    counts = [count for count in (16, 32, 64, 128, 256, 512, 1024) if count <= most] if not options.quick else [8, 16]
    tokens = {count: sampled(lab.roll_out(agent, count // 8)) for count in counts}
    functions: dict[str, Callable[[], object]] = {
        f"trajectories {n}": lambda n=n: lab.roll_out(agent, n // 8) for n in counts
    }
    shape = SHAPE if not options.quick else SHAPE | {"trajectories": 4, "tokens": 8}
    axes = {"tokens": (16, 32, 64, 128), "turns": (2, 4, 8, 16), "latency": (0.1, 0.2, 0.4, 0.8)}
    for axis, sizes in axes.items():
        for size in sizes if not options.quick else sizes[:2]:
            functions[f"{axis} {size}"] = lambda axis=axis, size=size: shaped(lab.engine, **shape | {axis: size})
    seconds = in_turn(functions, options.rounds, warm=False)

    def fitted(axis: str, sizes: Sequence[float], over: dict[float, float] | None = None) -> list[float]:
        """Of each round."""
        at = [size if over is None else over[size] for size in sizes]
        return [exponent(at, [seconds[f"{axis} {size}"][i] for size in sizes]) for i in range(options.rounds)]

    def times(axis: str, sizes: Sequence[float]) -> str:
        return ", ".join(f"{median(seconds[f'{axis} {size}']):.2f}" for size in sizes)

    full = [count for count in counts if count >= 64] if not options.quick else counts
    rows = [
        row(
            f"exponent of time by tokens written, {counts[0]} to {counts[-1]} trajectories, 64 under way at a time",
            f"{times('trajectories', counts)} s",
            "time in proportion: 1.0",
            fitted("trajectories", counts, {n: float(tokens[n]) for n in counts}),
            "<= 1.05",
            note=f"from {full[0]} on, where all slots are taken: "
            f"{median(fitted('trajectories', full, {n: float(tokens[n]) for n in full})):.2f}",
        )
    ]
    for axis, words in (("tokens", "tokens of a turn"), ("turns", "turns of a trajectory")):
        sizes = axes[axis][: 2 if options.quick else None]
        rows.append(
            row(
                f"exponent of time by {words}, {sizes[0]} to {sizes[-1]}",
                f"{times(axis, sizes)} s",
                "time in proportion: 1.0",
                fitted(axis, sizes),
            )
        )
    sizes = axes["latency"][: 2 if options.quick else None]
    waits = SHAPE["turns"] - 1
    slopes = [
        _slope(torch.tensor([waits * s for s in sizes]), torch.tensor([seconds[f"latency {s}"][i] for s in sizes]))
        for i in range(options.rounds)
    ]
    rows.append(
        row(
            f"seconds more for a second of tools in each trajectory, {SHAPE['trajectories']} trajectories",
            f"{times('latency', sizes)} s",
            f"one after another: {SHAPE['trajectories']}",
            slopes,
        )
    )
    report(options, rows, seconds=seconds, tokens=tokens)


if __name__ == "__main__":
    main()
