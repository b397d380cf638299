"""The data types: problems, messages, tool calls, trajectories and groups. Standard library only.

A trajectory is an append-only list of pieces and is never tokenised again. Its token ids, its loss mask and its steps are
computed from the pieces, so they always agree.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

Message = dict[str, Any]
"""A message in OpenAI's format: role, content, and for the assistant optionally tool_calls. An assistant message with
`"weight": 0` is context and has no loss."""
Schema = dict[str, Any]
"""A tool's OpenAI function schema: {"type": "function", "function": {"name", "description", "parameters"}}."""

Author = Literal["prompt", "student", "teacher", "tool", "user"]
"""teacher: a turn that the teacher wrote in the student's place (`rollout.guided`). It is context and is never trained on."""
Stop = Literal["answered", "over", "max_turns", "max_tokens", "repeated"]
"""Why an attempt ended. answered: the student wrote a turn without calls. over: the environment ended the attempt."""
Outcome = Literal[
    "ok", "error", "timeout", "signal", "output_limit", "disk_limit", "malformed", "unknown_tool", "wrong_arguments"
]
"""Outcome of one tool call. Every value except `ok` is an error of the student; infrastructure failures are exceptions."""
NO_CALL: frozenset[Outcome] = frozenset({"malformed", "unknown_tool", "wrong_arguments"})
"""Outcomes of attempted calls that ran nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question with a verifiable answer.

    Example:
        >>> problem = Problem(id="sum", messages=({"role": "user", "content": "What is 1 + 2?"},), answer="3")
        >>> problem.kind
        'math'
    """

    id: str
    messages: tuple[Message, ...]
    """The conversation that the student continues, usually one user message."""
    answer: str
    kind: str = "math"
    """Kind of judge: math, choice or code; see `sod.rewards.kinds`."""
    options: int = 4
    """Multiple choice only: number of options. Their letters are A, B, ..."""
    hint: str = ""
    """A hint, only for a privileged teacher; the student never reads it."""
    solution: str = ""
    """A worked solution, only for a privileged teacher; the student never reads it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that results are broken down by, for example {"difficulty": "hard"}."""
    environment: str = ""
    """Environment of this problem, NAME or FILE.py:CLASS. Empty: the run's, `--environment`."""
    setting: Mapping[str, Any] = field(default_factory=dict)
    """Input of the environment, for example {"task": "boil", "variation": 3}."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files of the problem: name in the working directory of its programs, to path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A well-formed call: the name of a tool and its arguments."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedCall:
    """Text between tool-call tags that is not a valid call."""

    complaint: str
    """Error message for the student."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The text that the student reads after a tool call, and the call's outcome."""

    text: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of one author. A student's piece is one turn, including its end-of-turn token.

    Example:
        >>> turn = Piece("student", (5, 6, 2), logprobs=(-0.1, -0.3, -0.2))
        >>> result = Piece("tool", (9,), outcomes=("ok",))
        >>> turn.author, result.outcomes
        ('student', ('ok',))
    """

    author: Author
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    """The sampler's log-probability of each token at the sampling temperature; empty for tokens that were not sampled."""
    outcomes: tuple[Outcome, ...] = ()
    """For a tool's piece: the outcome of each call that it answers. For a user's piece: the outcome of the turn before it. Calls
    in the last turn have no results and are not counted."""

    @property
    def is_turn(self) -> bool:
        """Whether a model wrote it: the student, or the teacher in its place."""
        return self.author in ("student", "teacher")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A judge's decision on an attempt.

    Example:
        >>> verdict = Verdict(outcome="right", answer="3", reason="exact")
        >>> verdict.is_right, verdict.is_graded
        (True, True)
    """

    outcome: Literal["right", "wrong", "ungraded"]
    """`ungraded` if the judge could not decide. Such an attempt is neither right nor wrong; it is kept but never trained on."""
    answer: str | None = None
    """The answer in canonical form, for majority votes; None without an answer, and for programs."""
    reason: str = ""
    """The layer that decided, the test that failed, or the cause of an ungraded attempt."""

    @property
    def is_right(self) -> bool:
        return self.outcome == "right"

    @property
    def is_graded(self) -> bool:
        return self.outcome != "ungraded"


@dataclass(frozen=True)
class Trajectory:
    """One attempt at one problem: x, y_1, o_1, ..., y_K, o_K, y_{K+1} as token pieces, in order.

    Example:
        >>> problem = Problem(id="sum", messages=(), answer="3")
        >>> pieces = (Piece("prompt", (7, 8)), Piece("student", (5, 2)))
        >>> trajectory = Trajectory(problem, sample=0, pieces=pieces, stop="answered", final_text="3")
        >>> trajectory.ids, trajectory.mask
        ([7, 8, 5, 2], [False, False, True, True])
    """

    problem: Problem
    sample: int
    """Number of this attempt at the problem, from 0."""
    pieces: tuple[Piece, ...]
    stop: Stop
    final_text: str
    """Text of the last turn, which must contain the answer."""
    verdict: Verdict | None = None
    """The judge's decision; None before the judge has read the attempt."""
    reward: float = 0.0
    """Weighted sum of `rewards`."""
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Each part of the reward by its name, before it is weighted."""
    turn_rewards: tuple[float, ...] = ()
    """The environment's reward of each turn of the student; empty if it gives none."""
    messages: tuple[Message, ...] = ()
    """The conversation that the environment began with; empty if it is the problem's."""
    tools: tuple[Schema, ...] = ()
    """The tools of that conversation."""
    environment_verdict: Verdict | None = None
    """The environment's own verdict; None if the judge of the problem's kind decides."""
    seconds: float = 0.0
    """Wall-clock seconds of the attempt. Only for information; no decision depends on it."""

    @property
    def judged(self) -> Verdict:
        """The verdict. Raises AssertionError before the judge has read the attempt."""
        assert self.verdict is not None, f"sample {self.sample} of problem {self.problem.id!r} has no verdict"
        return self.verdict

    @cached_property
    def ids(self) -> list[int]:
        return [token for piece in self.pieces for token in piece.tokens]

    @cached_property
    def mask(self) -> list[bool]:
        """True on the tokens that the student sampled, False on all others."""
        return [piece.author == "student" for piece in self.pieces for _ in piece.tokens]

    @property
    def sampler_logprobs(self) -> list[float]:
        """The sampler's log-probability of each token; 0 for tokens that were not sampled."""
        return [p for piece in self.pieces for p in piece.logprobs or (0.0,) * len(piece.tokens)]

    @property
    def response(self) -> list[int]:
        """The tokens after the prompt, observations included."""
        return [token for piece in self.pieces[1:] for token in piece.tokens]

    @property
    def turns(self) -> list[Piece]:
        """The student's turns: the paper's steps y_1, y_2, ..."""
        return [piece for piece in self.pieces if piece.author == "student"]

    @property
    def guided(self) -> int:
        """Number of turns that the teacher wrote."""
        return sum(piece.author == "teacher" for piece in self.pieces)

    @property
    def observations(self) -> list[Piece]:
        """Answers to the student's turns, from tools or as user messages: the k-th follows the k-th turn.

        None follows the last turn of a trajectory.
        """
        return [after for before, after in pairwise(self.pieces) if before.author == "student"]

    @property
    def read(self) -> list[Piece]:
        """The piece before each of the student's turns: the prompt, then what answered the turn before."""
        return [before for before, after in pairwise(self.pieces) if after.author == "student"]

    @property
    def outcomes(self) -> Counter[Outcome]:
        """Number of the student's tool calls per outcome."""
        return Counter(outcome for piece in self.observations for outcome in piece.outcomes)

    @property
    def tool_errors(self) -> int:
        return sum(count for outcome, count in self.outcomes.items() if outcome != "ok")

    @property
    def response_tokens(self) -> int:
        """Length of the response in tokens, observations included. The token budget limits it."""
        return sum(len(piece.tokens) for piece in self.pieces[1:])


@dataclass(frozen=True)
class Group:
    """All graded attempts at one problem in one update. GRPO compares them with each other."""

    problem: Problem
    trajectories: list[Trajectory] = field(default_factory=list)
    dropped: int = 0
    """Attempts lost to infrastructure failures."""
    ungraded: list[Trajectory] = field(default_factory=list)
    """Attempts that the judge could not decide. They do not belong to the group, but are kept."""

    @classmethod
    def of(cls, problem: Problem, attempts: Sequence[Trajectory], *, dropped: int = 0) -> "Group":
        """Sort judged attempts into graded and ungraded ones."""
        graded = [attempt for attempt in attempts if attempt.judged.is_graded]
        ungraded = [attempt for attempt in attempts if not attempt.judged.is_graded]
        return cls(problem, graded, dropped=dropped, ungraded=ungraded)

    @property
    def is_alike(self) -> bool:
        """True if all attempts have the same verdict. GRPO then cannot learn right from wrong."""
        return len({attempt.judged.is_right for attempt in self.trajectories}) < 2

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.trajectories)

    def __len__(self) -> int:
        return len(self.trajectories)
