"""A taskset of `verifiers` for the tests: one turn, with a rubric of two rewards."""

# pyright: reportMissingImports=false

from collections.abc import Iterator

import verifiers.v1 as vf

__all__ = ["SumsTaskset"]


class SumsData(vf.TaskData):
    answer: str


class SumsTask(vf.Task[SumsData]):
    @vf.reward(weight=0.75)
    async def exact(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == self.data.answer)

    @vf.reward(weight=0.25)
    async def short(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply) < 10)


class SumsTaskset(vf.Taskset[SumsTask, vf.TasksetConfig]):
    def load(self) -> Iterator[SumsTask]:
        for number in range(3):
            data = SumsData(prompt=f"What is {number} + 1?", system_prompt="Be short.", answer=str(number + 1))
            yield SumsTask(data, self.config.task)
