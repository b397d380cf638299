"""A taskset of `verifiers` for the tests: several turns against a user that the environment plays."""

# pyright: reportMissingImports=false

from collections.abc import Iterator

import verifiers.v1 as vf

__all__ = ["GuessingEnv", "GuessingTaskset"]


class GuessingData(vf.TaskData):
    secret: int


class GuessingTask(vf.Task[GuessingData]):
    pass


class GuessingConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()


class GuessingEnv(vf.Env[GuessingConfig]):
    async def run(self, task: GuessingTask, agents: vf.Agents) -> None:
        found = False
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated and not found:
                guess = int(segment.last_reply)
                found = guess == task.data.secret
                if not found:
                    segment = await interaction.turn("Higher." if guess < task.data.secret else "Lower.")
        interaction.trace.record_reward("found", float(found), 1.0)


class GuessingTaskset(vf.Taskset[GuessingTask, vf.TasksetConfig]):
    def load(self) -> Iterator[GuessingTask]:
        for secret in (5, 9):
            yield GuessingTask(GuessingData(prompt="Guess my number.", secret=secret), self.config.task)
