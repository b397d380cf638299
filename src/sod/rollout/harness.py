"""The surroundings of a student: chat format, tools, judges and sandbox."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from sod.chat.format import ChatFormat
from sod.config import ChatOptions, RewardOptions, SamplingOptions, SandboxOptions, ToolOptions
from sod.engines import Engine
from sod.environments.running import Environments
from sod.environments.tools import check_schemas, with_files
from sod.errors import DataError
from sod.model.loading import load_tokenizer
from sod.moved import keep_old_names
from sod.processes.concurrency import Runner
from sod.rewards.kinds import ENVIRONMENT_KIND
from sod.rewards.referee import Referee
from sod.rollout.agent import Agent, check_prompts
from sod.sandbox.retries import GuardedSandbox, open_sandbox
from sod.tools import Toolbox
from sod.tools.selection import check_files, tools_of
from sod.types import Problem

logger = logging.getLogger(__name__)


class HarnessOptions(Protocol):
    """The options that a Harness needs, as in the options of `sod train` and `sod eval`."""

    @property
    def sandbox(self) -> SandboxOptions: ...
    @property
    def reward(self) -> RewardOptions: ...
    @property
    def rollout(self) -> SamplingOptions: ...
    @property
    def tool(self) -> ToolOptions: ...
    @property
    def environment(self) -> str: ...
    @property
    def chat(self) -> ChatOptions: ...


@dataclass(frozen=True, slots=True)
class Harness:
    """Chat format, tools, judges and sandbox of a student. The same in training and evaluation."""

    sandbox: GuardedSandbox
    referee: Referee
    chat: ChatFormat
    tools: Toolbox
    environments: Environments
    problems: list[Problem]
    """All problems that were checked."""
    has_interpreter: bool = True
    """Whether a tool runs programs in the sandbox."""

    @classmethod
    def of(cls, tokenizer: Path, options: HarnessOptions, problems: Sequence[Problem], *, again: bool = False) -> Self:
        """Open the sandbox, and check that every problem has a judge and a prompt within the limit.

        `again`: whether the notes were logged before.
        """
        if options.reward.judge == "reference" and not again:
            logger.warning(
                "reward.judge = reference: verdicts are those of the paper's code, which reject many right answers."
            )
        sandbox = open_sandbox(options.sandbox)
        referee = Referee(sandbox, options.reward, max_tokens=options.rollout.max_tokens)
        chat = ChatFormat.of(load_tokenizer(tokenizer), options.chat)
        if chat.note and not again:
            logger.info(chat.note)
        tools = Toolbox(tools_of(options.tool, sandbox))
        check_schemas(chat, tools)
        environments = Environments(tools, options.environment, options.tool)
        harness = cls(sandbox, referee, chat, tools, environments, [], "code_interpreter" in options.tool.use)
        harness.check(problems, options.rollout)
        return harness

    def check(self, problems: Sequence[Problem], limits: SamplingOptions) -> None:
        """Check further problems as `of` does."""
        self.environments.load(problems)
        self.referee.check(problems)
        with_tools = self.with_tools(problems)
        if self.referee.needs_answers and (alone := [each for each in with_tools if each.kind == ENVIRONMENT_KIND]):
            raise DataError(
                f"{len(alone)} of {len(problems)} problems have no answer and no environment that could judge them, such as "
                f"{alone[0].id!r}. Give --environment, or add the column `environment` or `answer`."
            )
        check_files(with_tools, self.tools)
        check_prompts(self.chat, self.tools, limits, list(map(with_files, with_tools)))
        self.problems.extend(problems)

    def with_tools(self, problems: Sequence[Problem]) -> list[Problem]:
        """Return the problems of the default environment."""
        return [problem for problem in problems if self.environments.is_default(problem)]

    @contextmanager
    def working_in(self, loop: Runner | asyncio.Runner) -> Iterator[None]:
        """Use sandbox and environments in this loop, then close them. Raises SandboxError or OptionError if one fails a probe."""
        with (
            self.sandbox.working_in(loop, probe=self._runs_programs()),
            self.environments.working_in(loop, self.problems, self.chat),
        ):
            yield

    def _runs_programs(self) -> bool:
        """Return whether a program may run in the sandbox, which takes time to start."""
        if self.has_interpreter and (not self.problems or self.with_tools(self.problems)):
            return True
        return self.referee.runs_programs(self.problems)

    @property
    def frame(self) -> str:
        """The text that the chat template puts around every prompt."""
        return self.chat.text(self.chat.prompt([{"role": "user", "content": "1"}], self.tools.schemas))

    def agent(self, engine: Engine, limits: SamplingOptions, *, logprobs: bool = True) -> Agent:
        """Return an agent that samples with this engine. `logprobs`: whether the tokens' log-probabilities are used."""
        return Agent(engine, self.chat, self.environments, self.referee, limits, logprobs=logprobs)


keep_old_names(__name__, World="Harness", WorldOptions="HarnessOptions")
