"""Sample one trajectory for one problem: write a turn, run its tool calls, append the results, and repeat."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sod.chat.format import ChatFormat
from sod.config import SamplingOptions
from sod.console.progress import slow_bar
from sod.engines import Engine, Request
from sod.errors import DataError
from sod.rewards.referee import Referee
from sod.tools import Toolbox
from sod.types import Piece, Problem, Stop, ToolCall, Trajectory


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
    """The student with its surroundings: the engine that samples, the chat format, tools, judges and limits."""

    engine: Engine
    chat: ChatFormat
    tools: Toolbox
    referee: Referee
    options: SamplingOptions
    logprobs: bool = field(default=True, kw_only=True)
    """Whether the log-probabilities of the tokens are used. If not, they may be wrong or missing."""

    async def attempt(self, problem: Problem, sample: int, seed: int, prefix: Sequence[Piece] = ()) -> Trajectory:
        """Sample and judge one trajectory. Raises only for failures that the student did not cause.

        `seed` also identifies the attempt to the engine, so it must be unique among running attempts. `prefix`: a conversation
        to continue instead of the problem's prompt. It ends where the student writes the next turn. Its turns and tokens count
        towards the limits.
        """
        start = time.monotonic()
        pieces = list(prefix) or [Piece("prompt", tuple(self.chat.prompt(problem.messages, self.tools.schemas)))]
        try:
            stop = await self._converse(pieces, seed)
        finally:
            self.engine.release(seed)
        final_text = self.chat.final_text(pieces[-1].tokens) if stop == "answered" else ""
        trajectory = Trajectory(problem=problem, sample=sample, pieces=tuple(pieces), stop=stop, final_text=final_text)
        verdict = await self.referee.judge(trajectory, lambda: self.chat.response(trajectory.response))
        trajectory = replace(trajectory, verdict=verdict)
        return replace(trajectory, reward=self.referee.reward(trajectory), seconds=time.monotonic() - start)

    async def _converse(self, pieces: list[Piece], seed: int) -> Stop:
        ids = [token for piece in pieces for token in piece.tokens]
        left = self.options.max_tokens - (len(ids) - len(pieces[0].tokens))
        for turn in range(sum(piece.author == "student" for piece in pieces), self.options.max_turns + 1):
            limit = min(left, self.options.max_turn_tokens or left)
            reply = await self.engine.sample(
                Request(
                    ids=ids,
                    max_tokens=limit,
                    stop=self.chat.end_of_turn,
                    seed=seed + turn,
                    temperature=self.options.temperature,
                    top_p=self.options.top_p,
                    trajectory=seed,
                    logprobs=self.logprobs,
                )
            )
            pieces.append(Piece("student", reply.tokens, reply.logprobs))
            if reply.stop == "length":
                return "max_tokens"
            calls = self.chat.calls(reply.tokens, self.tools.schemas)
            # The template continues only after its own ends of calls. Any other end id ends the trajectory, also with calls.
            if not calls or reply.tokens[-1] not in self.chat.ends_of_calls:
                return "answered"
            if turn == self.options.max_turns:
                return "max_turns"
            if self._repeats(pieces):
                return "repeated"
            observations = await self.tools.answer(calls, seed=seed + turn)
            names = [call.name if isinstance(call, ToolCall) else self.tools.names[0] for call in calls]
            suffix = tuple(self.chat.observation([observation.text for observation in observations], names))
            left -= len(reply.tokens) + len(suffix)
            if left <= 0:
                return "max_tokens"
            pieces.append(Piece("tool", suffix, outcomes=tuple(observation.outcome for observation in observations)))
            ids = [*ids, *reply.tokens, *suffix]
        raise AssertionError("the last turn always returns")

    def _repeats(self, pieces: list[Piece]) -> bool:
        turns = [piece.tokens for piece in pieces if piece.author == "student"][-self.options.max_repeats :]
        return len(turns) == self.options.max_repeats > 1 and len(set(turns)) == 1
