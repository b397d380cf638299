"""A kind of problem that sod does not ship, as CONTRIBUTING describes one: the answer is an order of letters, after "Order:"."""

import re
from collections.abc import Callable

from sod.errors import DataError
from sod.rewards import NO_ANSWER, Verdict
from sod.rewards.kinds import Example, ProblemKind

_ORDER = re.compile(r"\s*([A-Z])(?:\s*(?:,|>|before)\s*([A-Z]))+\s*")
_ANSWER = re.compile(r"Order:([^\n]*)")


def canonical_order(text: str) -> str:
    """A, B, C; empty for a text that is no order."""
    return ", ".join(re.findall("[A-Z]", text)) if _ORDER.fullmatch(text) else ""


class OrderJudge:
    """Right is the same order, however it is written."""

    def check(self, gold: str) -> None:
        if not canonical_order(gold):
            raise DataError(f"The gold answer {gold!r} is not an order of letters. Write it like `B, A, C`.")

    async def __call__(self, text: str, gold: str) -> Verdict:
        found = _ANSWER.findall(text)
        if not found or not (order := canonical_order(found[-1])):
            return Verdict(outcome="wrong", reason=NO_ANSWER)
        outcome = "right" if order == canonical_order(gold) else "wrong"
        return Verdict(outcome=outcome, answer=order, reason="order")


ask: Callable[[str], str] = "{{problem}}\n\n{} in a last line that begins with `Order:`.".format

ORDER = ProblemKind(
    judge=lambda _: OrderJudge(),
    check=lambda gold, _: OrderJudge().check(gold),
    examples=(
        Example("B, A, C", "Order: B > A > C", "right"),
        Example("B, A, C", "Order: A, B, C", "wrong"),
    ),
    vote=canonical_order,
    stored=lambda gold: canonical_order(gold) or gold,
    wording={"clean": ask("Give the order"), "paper": ask("Think. Then give the order")},
    place="a line `Order: ...`",
    asks=re.compile("order:", re.IGNORECASE),
    asks_exactly=re.compile("Order:"),
    recognises=lambda seen: _ORDER.fullmatch(str(seen.gold)) is not None,
)
