"""The nouns: what a problem, a conversation and a trajectory are. Standard library only.

A trajectory is a list of pieces, append-only and never tokenised again. Its token ids, its loss mask and its steps are
views of the pieces, so that they cannot disagree.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Message = dict[str, Any]
"""A message in OpenAI's format: role, content, and for the assistant optionally tool_calls. An assistant message with
`"weight": 0` is context: no loss is taken on it."""

Author = Literal["prompt", "student", "tool"]
Stop = Literal["answered", "max_turns", "max_tokens", "repeated"]
Outcome = Literal[
    "ok", "error", "timeout", "signal", "output_limit", "disk_limit", "malformed", "unknown_tool", "wrong_arguments"
]
"""What became of one tool call. All but `ok` are the student's doing; our own failures are exceptions."""
NO_CALL: frozenset[Outcome] = frozenset({"malformed", "unknown_tool", "wrong_arguments"})
"""Outcomes of what was meant as a call and ran nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question with a verifiable answer."""

    id: str
    messages: tuple[Message, ...]
    """The conversation that the student is to continue, usually one user message."""
    answer: str
    kind: str = "math"
    """Which judge it needs: math, choice or code; see `sod.rewards.referee`."""
    options: int = 4
    """Of multiple choice: how many options there are. Their letters are A, B, ..."""
    hint: str = ""
    """What helps to solve it, for a privileged teacher alone; the student never reads it."""
    solution: str = ""
    """How it can be solved, worked out; for a privileged teacher alone as well."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What it is counted under when results are broken down: {"difficulty": "hard"}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A well-formed call: the name of a tool and its arguments."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedCall:
    """Text between tool-call tags that is no call, and what the student is told about it."""

    complaint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the student reads after a tool call."""

    text: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens by one author. A student's piece is one turn, its end-of-turn token included."""

    author: Author
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    """The sampler's log-probability of each token at the sampling temperature; empty where nobody sampled."""
    outcomes: tuple[Outcome, ...] = ()
    """For a tool's piece: what became of each call that it answers. Calls of a last turn, which nobody reads the results
    of, are not counted."""


@dataclass(frozen=True)
class Trajectory:
    """One attempt at one problem: x, y_1, o_1, ..., y_K, o_K, y_{K+1} as token pieces, in order."""

    problem: Problem
    sample: int
    """Which of the problem's attempts this is, from 0."""
    pieces: tuple[Piece, ...]
    stop: Stop
    final_text: str
    """Text of the last student turn, where the answer must stand."""
    reward: float = 0.0
    correct: bool = False
    answer: str | None = None
    """The canonical answer that the judge read, None if there was none."""
    reason: str = ""
    """What decided the verdict."""
    graded: bool = True
    """False if the judge does not know: neither right nor wrong, kept for the reader and never trained on."""
    seconds: float = 0.0
    """Wall-clock seconds that the attempt took; never part of a decision."""

    @cached_property
    def ids(self) -> list[int]:
        return [token for piece in self.pieces for token in piece.tokens]

    @cached_property
    def mask(self) -> list[bool]:
        """True exactly on the tokens that the student sampled."""
        return [piece.author == "student" for piece in self.pieces for _ in piece.tokens]

    @property
    def sampler_logprobs(self) -> list[float]:
        """The sampler's log-probability of each token, 0 where nobody sampled."""
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
    def observations(self) -> list[Piece]:
        """What the tools answered: the k-th after the k-th turn, and none after the last."""
        return [piece for piece in self.pieces if piece.author == "tool"]

    @property
    def outcomes(self) -> Counter[Outcome]:
        """How many tool calls ended in which way."""
        return Counter(outcome for piece in self.pieces for outcome in piece.outcomes)

    @property
    def tool_errors(self) -> int:
        return sum(count for outcome, count in self.outcomes.items() if outcome != "ok")

    @property
    def response_tokens(self) -> int:
        """Length of the response: what the token budget counts."""
        return sum(len(piece.tokens) for piece in self.pieces[1:])


@dataclass(frozen=True)
class Group:
    """All graded attempts at one problem in one update: what GRPO compares with each other."""

    problem: Problem
    trajectories: list[Trajectory] = field(default_factory=list)
    dropped: int = 0
    """Attempts lost to our own machinery."""
    ungraded: list[Trajectory] = field(default_factory=list)
    """Attempts that the judge could not decide: no member of the group, but not lost."""

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.trajectories)

    def __len__(self) -> int:
        return len(self.trajectories)
