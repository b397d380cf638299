"""The conversation of one attempt: read the student's turns, and render the environment's answers as tokens."""

from collections.abc import Sequence

from sod.chat.format import ChatFormat
from sod.environments import Opening
from sod.environments.guarding import GuardedEnvironment
from sod.errors import InfrastructureError
from sod.types import MalformedCall, Message, Outcome, Piece, ToolCall


class Dialogue:
    """An attempt under way. Without tools, every turn of the student is text."""

    def __init__(self, chat: ChatFormat, environment: GuardedEnvironment, opening: Opening):
        self._chat = chat
        self._environment = environment
        self._opening = opening
        self._answers: list[list[Message]] = []
        self._rewards: list[float | None] = []
        self.words = ""
        """Text of the turn that was read last, without thoughts and calls."""
        self.pieces = [Piece("prompt", tuple(chat.prompt(opening.conversation, opening.tools)))]

    @property
    def has_tools(self) -> bool:
        """Whether the attempt has tools. A turn without calls is then the answer."""
        return bool(self._opening.tools)

    @property
    def turn_rewards(self) -> tuple[float, ...]:
        """The environment's reward of each turn of the student, 0 for turns without one; empty if no turn has one."""
        return () if all(r is None for r in self._rewards) else tuple(r or 0.0 for r in self._rewards)

    def read(self, tokens: Sequence[int]) -> list[ToolCall | MalformedCall]:
        """Read a turn of the student, and return its calls. `words` is then its text."""
        self.words, calls = self._chat.read(tokens, self._opening.tools)
        return calls

    async def answer(self, calls: Sequence[ToolCall | MalformedCall], seed: int) -> Piece | None:
        """Return the environment's answer to the turn that was read last; None if the attempt is over."""
        *before, turn = (len(piece.tokens) for piece in self.pieces)
        answer = await self._environment.answer(self.words, calls, seed, (sum(before), turn))
        if self.pieces[-1].author == "student":
            self._rewards.append(answer.reward)
        if answer.is_over:
            return None
        texts = [observation.text for observation in answer.observations]
        outcomes: tuple[Outcome, ...] = tuple(observation.outcome for observation in answer.observations)
        if not calls:
            self._chat.check_replies()
            self._answers.append([{"role": "user", "content": texts[0]}])
            return Piece("user", tuple(self._chat.reply(texts[0])), outcomes=outcomes)
        first = self._opening.tools[0]["function"]["name"]
        names = [call.name if isinstance(call, ToolCall) else first for call in calls]
        self._answers.append(
            [{"role": "tool", "name": name, "content": text} for name, text in zip(names, texts, strict=True)]
        )
        return Piece("tool", tuple(self._chat.observation(texts, names)), outcomes=outcomes)

    async def take_up(self, prefix: Sequence[Piece], seeds: Sequence[int]) -> None:
        """Continue after these pieces. An environment with a state first gets their turns again.

        `seeds`: of their turns, which decide the calls that were damaged.

        Raises InfrastructureError if it then answers differently.
        """
        if self._environment.has_state:
            turns = [at for at, piece in enumerate(prefix[:-1]) if piece.is_turn]
            for seed, at in zip(seeds, turns, strict=False):
                self.pieces, following = list(prefix[: at + 1]), prefix[at + 1]
                answer = await self.answer(self.read(prefix[at].tokens), seed)
                if answer is None or answer.tokens != following.tokens:
                    raise InfrastructureError(
                        "The environment answers the same turns differently than in the attempt that is to be continued."
                    )
        self.pieces = list(prefix)

    def messages(self) -> list[Message]:
        """Return the conversation so far in OpenAI's format. Turns have their whole text, with thoughts."""
        made = list(self._opening.conversation)
        answers = iter(self._answers)
        for piece in self.pieces[1:]:
            if piece.is_turn:
                made.append({"role": "assistant", "content": self._chat.text(piece.tokens)})
            else:
                made += next(answers, [])
        return made
