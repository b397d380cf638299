"""The reference implementation's verdicts on answers, as they were observed."""

import asyncio

import pytest

from sod.errors import DataError
from sod.rewards import Judge, Verdict
from sod.rewards.reference import StrictBoxJudge, strict_box

TOOL_CALL = r'<tool_call>{"name": "python", "arguments": {"code": "print(' + r"'\boxed{204}'" + r')"}}</tool_call>'


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        (r"\boxed{204}", "204", True),
        (r"\boxed{'204'}", "204", False),
        (r"\boxed{ 33 }", "33", False),
        (r"\boxed{33}", "033", False),
        (r"\boxed{336}", r"336^\circ", False),
        (r"\boxed{1,000}", "1000", False),
        (r"\boxed{\frac{1}{2}}", "0.5", False),
        (r"\boxed{x=204}", "204", False),
        (r"\boxed{204.}", "204", False),
        (r"\boxed{\text{204}}", "204", False),
        (r"\boxed {204}", "204", False),
        (r"\fbox{204}", "204", False),
        (r"\boxed{204}" + "." * 101, "204", False),
        (r"\boxed{204}" + "." * 89, "204", True),
        (r"\boxed{204}" + "." * 90, "204", False),
        (r"\boxed{\text{C}}", "C", False),
        (r"\boxed{(C)}", "C", False),
        (r"\boxed{C.}", "C", False),
        (r"\boxed{c}", "C", False),
        (r"\boxed{Option C}", "C", False),
        (TOOL_CALL, "204", True),
        ("<tool_response>\n\\boxed{204}\n</tool_response>", "204", True),
        (r"\boxed{\boxed{204}}", "204", True),
        (r"\boxed{12} \boxed{204}", "204", True),
        (r"\boxed{204} \boxed{12}", "204", False),
        (r"\boxed{204", "204", False),
        ("", "204", False),
    ],
)
def test_the_verdict_is_the_references(response: str, gold: str, right: bool) -> None:
    assert (strict_box(response, gold).outcome == "right") == right


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{ 33 }", " 33 "),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{1\}2}", "1\\"),
        (r"\boxed {204}", None),
        (r"\boxed{204}" + "." * 101, None),
        ("", None),
    ],
)
def test_the_answer_is_what_stands_in_the_box_as_it_is(response: str, answer: str | None) -> None:
    assert strict_box(response, "204").answer == answer


def test_it_is_a_judge() -> None:
    async def one(judge: Judge) -> Verdict:
        judge.check("204")
        return await judge(r"\boxed{204}", "204")

    assert asyncio.run(one(StrictBoxJudge())) == Verdict(outcome="right", answer="204", reason="strict box")
    with pytest.raises(DataError, match="empty"):
        StrictBoxJudge().check("")
