"""A taskset of `verifiers` for the tests: a tool with a state for each attempt, on a server of verifiers' own."""

# pyright: reportMissingImports=false

from collections.abc import Iterator

import verifiers.v1 as vf

__all__ = ["CounterTaskset"]


class CounterState(vf.State):
    total: int = 0


class CounterTools(vf.Toolset[vf.ToolsetConfig, CounterState]):
    TOOL_PREFIX = None

    @vf.tool
    def add(self, number: int) -> str:
        """Add a number to the counter, and return the counter."""
        self.state.total += number
        return f"The counter is {self.state.total}."


class CounterTask(vf.Task[vf.TaskData, CounterState]):
    @classmethod
    def toolsets(cls, config: vf.TaskConfig) -> list[vf.Toolset]:
        return [CounterTools(vf.ToolsetConfig())]

    @vf.reward(weight=1.0)
    async def reached(self, trace: vf.Trace) -> float:
        return float(trace.state.total == 10)


class CounterTaskset(vf.Taskset[CounterTask, vf.TasksetConfig]):
    def load(self) -> Iterator[CounterTask]:
        yield CounterTask(vf.TaskData(prompt="Bring the counter to 10."), self.config.task)
