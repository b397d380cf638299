"""Sample one trajectory for one problem: write a turn, run its tool calls, append the results, and repeat."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sod.chat.format import ChatFormat
from sod.config import SamplingOptions
from sod.console.progress import slow_bar
from sod.engines import Engine, Reply, Request
from sod.environments.running import Environments
from sod.errors import DataError, InfrastructureError
from sod.rewards.referee import Referee
from sod.rollout.dialogue import Dialogue
from sod.rollout.guide import Guide
from sod.tools import Toolbox
from sod.types import Piece, Problem, Stop, Trajectory


def check_prompts(chat: ChatFormat, tools: Toolbox, options: SamplingOptions, problems: Sequence[Problem]) -> None:
    """Check the length of all prompts before the first token is sampled. Raises DataError if one exceeds the limit."""
    long, most, longest = 0, options.max_prompt_tokens, ""
    # A token is at least one byte. Tokenizers do not lengthen ASCII text first, so its length is a bound that needs no tokenizer.
    around = _characters(chat, tools, "")
    room = most - around if _characters(chat, tools, "x" * most) <= around + most else -1
    with slow_bar("prompts", "measure, %", 100) as at:
        for number, problem in enumerate(problems, 1):
            text = problem.messages[0]["content"] if len(problem.messages) == 1 else None
            if text is not None and len(text) <= room and text.isascii():
                continue
            length = len(chat.prompt(problem.messages, tools.schemas))
            long += length > options.max_prompt_tokens
            if length > most:
                most, longest = length, problem.id
            at(100 * number // len(problems))
    if long:
        raise DataError(
            f"{long} of {len(problems)} prompts are longer than rollout.max_prompt_tokens = {options.max_prompt_tokens}. The "
            f"longest, of problem {longest!r}, has {most} tokens. Increase rollout.max_prompt_tokens, or remove these problems."
        )


def _characters(chat: ChatFormat, tools: Toolbox, text: str) -> int:
    """Return the length of a prompt with this text, in characters."""
    tokens = chat.prompt([{"role": "user", "content": text}], tools.schemas)
    return len(str(chat.tokenizer.decode(tokens, skip_special_tokens=False)))


@dataclass(frozen=True, slots=True)
class Agent:
    """The student with its surroundings: the engine that samples, the chat format, environments, judges and limits."""

    engine: Engine
    chat: ChatFormat
    environments: Environments
    referee: Referee
    options: SamplingOptions
    logprobs: bool = field(default=True, kw_only=True)
    """Whether the log-probabilities of the tokens are used. If not, they may be wrong or missing."""
    guide: Guide | None = field(default=None, kw_only=True)
    """The teacher, if it writes some of the turns."""

    async def attempt(
        self,
        problem: Problem,
        sample: int,
        seed: int,
        beginning: int = 0,
        prefix: Sequence[Piece] = (),
        prefix_seeds: Sequence[int] = (),
    ) -> Trajectory:
        """Sample and judge one trajectory. Raises only for failures that the student did not cause.

        `seed` also identifies the attempt to the engine, so it must be unique among running attempts. `beginning`: seed of the
        environment, equal for all attempts at a problem. `prefix`: a conversation to continue instead of the problem's prompt.
        It ends where the student writes the next turn. Its turns and tokens count towards the limits. `prefix_seeds`: the seed
        of each of its turns, the seed of the attempt that the turn is from plus its number. Default: those of this attempt.
        """
        start = time.monotonic()
        async with self.environments.opened(problem, beginning) as (environment, opening):
            dialogue = Dialogue(self.chat, environment, opening)
            self._check_prompt(problem, dialogue.pieces[0])
            if prefix:
                await dialogue.take_up(prefix, prefix_seeds or range(seed, seed + len(prefix)))
            try:
                stop = await self._converse(dialogue, seed)
            finally:
                self.engine.release(seed)
                if self.guide is not None:
                    self.guide.engine.release(seed)
            final = dialogue.pieces[-1].tokens if stop == "answered" else ()
            verdict = await environment.verdict(dialogue.words if final else "")
        # The default environment adds the problem's files to its messages.
        is_plain = self.environments.is_default(problem) and opening.conversation == problem.messages
        trajectory = Trajectory(
            problem=problem,
            sample=sample,
            pieces=tuple(dialogue.pieces),
            stop=stop,
            final_text=self.chat.final_text(final) if final else "",
            turn_rewards=dialogue.turn_rewards,
            messages=() if is_plain else opening.conversation,
            tools=() if is_plain else tuple(opening.tools),
            environment_verdict=verdict,
        )
        if verdict is None:
            verdict = await self.referee.judge(trajectory, lambda: self.chat.response(trajectory.response))
        trajectory = await self.referee.rewarded(replace(trajectory, verdict=verdict), dialogue.messages)
        return replace(trajectory, seconds=time.monotonic() - start)

    def _check_prompt(self, problem: Problem, prompt: Piece) -> None:
        if len(prompt.tokens) > self.options.max_prompt_tokens:
            raise InfrastructureError(
                f"The environment {self.environments.name_of(problem)} begins problem {problem.id!r} with a prompt of "
                f"{len(prompt.tokens)} tokens, more than rollout.max_prompt_tokens = {self.options.max_prompt_tokens}. Increase "
                "rollout.max_prompt_tokens."
            )

    async def _converse(self, dialogue: Dialogue, seed: int) -> Stop:
        pieces = dialogue.pieces
        ids = [token for piece in pieces for token in piece.tokens]
        left = self.options.max_tokens - (len(ids) - len(pieces[0].tokens))
        for turn in range(sum(piece.is_turn for piece in pieces), self.options.max_turns + 1):
            request = Request(
                ids=ids,
                max_tokens=min(left, self.options.max_turn_tokens or left),
                stops=self.chat.ends,
                seed=seed + turn,
                temperature=self.options.temperature,
                top_p=self.options.top_p,
                trajectory=seed,
                logprobs=self.logprobs,
            )
            guided = await self._guided(dialogue, request) if 0 < turn < self.options.max_turns else None
            reply = guided or await self.engine.sample(request)
            pieces.append(Piece("teacher", reply.tokens) if guided else Piece("student", reply.tokens, reply.logprobs))
            if reply.stop == "length":
                return "max_tokens"
            calls = dialogue.read(reply.tokens)
            # The template continues only after its own ends of calls. Any other end id ends the trajectory, also with calls.
            can_continue = reply.tokens[-1] in self.chat.ends_of_calls
            if calls and not can_continue:
                return "answered"
            if calls and (limit_reached := self._limit(turn, pieces)):
                return limit_reached
            with self.environments.busy():
                suffix = await dialogue.answer(calls, seed + turn)
            if suffix is None:
                return "over" if calls else "answered"
            if not can_continue:
                return "answered"
            if limit_reached := self._limit(turn, pieces):
                return limit_reached
            left -= len(reply.tokens) + len(suffix.tokens)
            if left <= 0:
                return "max_tokens"
            pieces.append(suffix)
            ids = [*ids, *reply.tokens, *suffix.tokens]
        raise AssertionError("the last turn always returns")

    async def _guided(self, dialogue: Dialogue, request: Request) -> Reply | None:
        """Return a turn of the teacher, or None if the student writes this one.

        The teacher's turn counts only if the conversation goes on after it. The answer is the student's, as is a turn that a
        limit would cut.
        """
        reply = None if self.guide is None else await self.guide.write(request)
        if reply is None or reply.stop == "length" or reply.tokens[-1] not in self.chat.ends_of_calls:
            return None
        return reply if dialogue.read(reply.tokens) or not dialogue.has_tools else None

    def _limit(self, turn: int, pieces: Sequence[Piece]) -> Stop | None:
        """Return the limit that ends the attempt after its turn number `turn`, from 0; None if there is none."""
        if turn == self.options.max_turns:
            return "max_turns"
        turns = [piece.tokens for piece in pieces if piece.is_turn][-self.options.max_repeats :]
        repeats = len(turns) == self.options.max_repeats > 1 and len(set(turns)) == 1
        return "repeated" if repeats else None
