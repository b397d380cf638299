"""The interface of an environment: the surroundings of one attempt at a problem, with their state.

One object is created for every attempt. The rollout calls `open` once, then `step` after every turn of the student, then
`verdict`, and `close` at the end, also after an error. Any method may be a plain function; it then runs in a thread.

Example:
    class Guess(Environment):
        '''A secret number; the student guesses.'''

        async def open(self, problem, seed):
            self.secret, self.found = int(problem.answer), False
            return Opening("Guess my number, from 1 to 100. Reply with a number.")

        async def step(self, turn):
            self.found = turn.text.strip() == str(self.secret)
            return Step("Wrong.", is_over=self.found)

        async def verdict(self, text):
            return self.found

The student's mistakes are text for the student. An exception is a failure of the environment: the attempt is retried, then
dropped and counted, never trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sod.types import Message, Observation, Outcome, Problem, Schema, ToolCall, Verdict


@dataclass(frozen=True, slots=True)
class Opening:
    """The beginning of an attempt: what the student reads first, and its tools.

    Example:
        >>> Opening("You are in a kitchen. What do you do?").conversation
        ({'role': 'user', 'content': 'You are in a kitchen. What do you do?'},)
    """

    messages: str | Sequence[Message]
    """The conversation that the student continues, or the text of its only user's message."""
    tools: Sequence[Schema] = ()
    """Tools that the student can call, in this attempt. Without tools, every turn is text."""

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The messages, also if a text was given."""
        return ({"role": "user", "content": self.messages},) if isinstance(self.messages, str) else tuple(self.messages)


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the student: its text without thoughts and calls, and its calls.

    Malformed calls, unknown tools and wrong types of arguments are answered before the environment; they are not in `calls`. A
    turn of which no call is left does not reach the environment.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()
    prompt_tokens: int = 0
    """Length of what the student had read and written before, in tokens."""
    tokens: int = 0
    """Length of the turn, in tokens."""
    malformed: int = 0
    """Number of malformed calls in the turn."""


@dataclass(frozen=True, slots=True)
class Step:
    """The environment's answer to a turn.

    Example:
        >>> Step("The door is locked.", outcome="error").observations
        (Observation(text='The door is locked.', outcome='error'),)
    """

    answer: str | Sequence[str | Observation] = ()
    """What the student reads next. After calls: one result for each call, in order; a text alone is the result of a single
    call. After a turn without calls: the text of a user's message."""
    is_over: bool = False
    """Whether the attempt ends here. The student does not read the answer to its last turn."""
    reward: float | None = None
    """Reward of this turn. None: this environment gives no rewards of turns."""
    outcome: Outcome = "ok"
    """Outcome of the turn, for answers that are text. `error`: the action was invalid or had no effect."""

    @property
    def observations(self) -> tuple[Observation, ...]:
        """The answer as observations."""
        answers = (self.answer,) if isinstance(self.answer, str) else self.answer
        return tuple(
            Observation(text=each, outcome=self.outcome) if isinstance(each, str) else each for each in answers
        )


class Environment(Protocol):
    """The surroundings of one attempt. A subclass needs `open` and `step`; an explicit subclass inherits the rest."""

    has_state: bool = True
    """Whether answers depend on earlier turns. `sod calibrate` then repeats a conversation's turns before it continues it."""
    judges_calls: bool = False
    """Whether calls of unknown tools and with wrong arguments reach `step`, and turns whose calls are all malformed."""

    @classmethod
    async def start(cls) -> None:
        """Create what all attempts of a run share, such as a server. Called once, before the first attempt."""

    @classmethod
    async def stop(cls) -> None:
        """End what `start` created. Called once, after the last attempt."""

    async def open(self, problem: Problem, seed: int) -> Opening:
        """Begin the attempt.

        `seed` depends on the run's seed, the update and the problem, so all attempts of a group begin alike. The same problem,
        seed and turns must give the same answers.
        """
        ...

    async def step(self, turn: Turn) -> Step:
        """Answer a turn of the student."""
        ...

    async def verdict(self, text: str) -> Verdict | bool | None:
        """Return the verdict on the attempt, after its last turn. True: right. None: the judge of the problem's kind decides.

        `text`: the last turn, without thoughts; empty if a limit ended the attempt.
        """
        del text
        return None

    async def close(self) -> None:
        """Release what the attempt holds. Called once for every object, also after an error or a time-out."""
