"""Run the tests of a program inside the sandbox, in a process without the program. Standard library only.

`sod.rewards.code` sends this file as the program to run. Two more files hold the results of earlier rounds:

    CALLS     the calls sent to the program, in the format of `sod.rewards.functional_driver`
    REPLIES   the program's replies, one line each

The job is JSON on standard input: {"prefix": source, "test": source, "names": [...]}. In the test, each of `names` is a proxy for
the program's object. A call of the proxy is looked up in CALLS, and its reply is rebuilt from plain data types. All comparisons,
operators and builtins in the test are Python's own, so the program cannot change them.

A call without a reply returns a placeholder, and the test continues: failed assertions are ignored, and further calls are
recorded. The first line of the reply is a word:

    passed        the test ended without an error, and every call had a reply
    failed        the test ended with an error, and every call had a reply; the second line is the error
    missing       the test needs a reply that the program did not give
    more          the second line has the calls of the next round, as JSON
    unfit         the test cannot be run in this way; the second line is the reason
"""

import ast
import builtins
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from sod.rewards.functional_driver import (
    MODULES,
    ListNode,
    TreeNode,
    as_array,
    builders,
    field_names,
    own_output,
    packed,
    unpacked,
    write,
)

CALLS, REPLIES = "calls.json", "replies.jsonl"
GUARD = "__sod_conversation__"
"""The name of the conversation in a rewritten test."""
MOST_CALLS, MOST_GUESSES = 10_000, 100_000
"""Limits on the calls of a test, and on the uses of placeholders: a test may loop for ever on one."""
DETAIL_CHARACTERS = 120
ENDS_A_LOOP = {"StopIteration", "StopAsyncIteration"}


class Halt(BaseException):
    """End the test: this round cannot find more calls."""


class Unfit(Exception):
    """The test passes the program a value that is not data."""


class Conversation:
    """The calls of a test and the replies of the program."""

    def __init__(self, test: str, calls: list[Any], replies: list[str], *, changing: bool = False) -> None:
        """Start with the calls and replies of earlier rounds.

        `changing`: whether every change that a call makes to its arguments is also made to the test's own arguments.
        """
        self.test = test
        self.changing = changing
        self.unchanged = False
        """Whether a call has changed the program's arguments but not the test's."""
        self.known = [json.dumps(call) for call in calls]
        self.replies = replies
        self.asked: list[Any] = []
        self.guessing = self.missing = False
        self.makers = {**builders({"ListNode": ListNode, "TreeNode": TreeNode}), "object": Opaque, "array": list}
        if "numpy" in test:
            self.makers["array"] = as_array
        self.unfit = ""
        self.guesses = 0
        self.no_data = ""
        """The error about a value that the test used as data. The test fails even if it catches the error."""

    def ask(self, call: list[Any]) -> tuple[int, Any]:
        """Return the number of a call and its reply; the reply is None if it needs a placeholder."""
        number = len(self.asked)
        if self.missing or number == MOST_CALLS:
            raise Halt
        self.asked.append(call)
        if not self.guessing and number < len(self.known) and self.known[number] == json.dumps(call):
            if number < len(self.replies):
                return number, json.loads(self.replies[number])
            self.missing = True
            raise Halt
        self.guessing = True
        return number, None

    def send(self, value: Any) -> Any:
        """Return a value in the form that is sent to the program."""
        try:
            return packed_for_program(value)
        except Unfit as error:
            if not self.guessing:
                self.unfit = str(error)
            raise Halt from error

    def receive(self, number: int, reply: Any) -> Any:
        """Return the value of a reply, rebuilt from plain types."""
        if "raised" in reply:
            raise self.as_raised(reply)
        data = reply["value"]
        if isinstance(data, dict) and "object" in data:
            return Remote(self, number, str(data["object"]))
        return unpacked(data, self.makers)

    def as_raised(self, reply: Any) -> Exception:
        """Return the exception of a reply as its nearest builtin class."""
        arguments = unpacked(reply["arguments"], self.makers)
        for name in reply["raised"]:
            kind = vars(builtins).get(name)
            if name in ENDS_A_LOOP and name not in self.test:  # `all(map(f, ...))` would stop without an error
                kind = RuntimeError
            if isinstance(kind, type) and issubclass(kind, Exception):
                try:
                    return kind(*arguments)
                except TypeError:  # the class needs other arguments
                    continue
        return Exception(*arguments)

    def repeat(self, arguments: tuple[Any, ...], keywords: dict[str, Any], after: Any) -> None:
        """Apply a call's changes of its arguments to the test's own arguments."""
        for mine, changed in zip(arguments, after[0], strict=True):
            replace_content(mine, unpacked(changed, self.makers))
        for name, mine in keywords.items():
            replace_content(mine, unpacked(after[1][name], self.makers))

    def dropped(self, function: Any) -> Any:
        """Return the function to call where the test drops the result: a proxy then also changes its arguments."""
        return function.changing if isinstance(function, Remote) else function

    def guess(self) -> None:
        """Count a use of a placeholder. Raises Halt above the limit."""
        self.guesses += 1
        if self.guesses > MOST_GUESSES:
            raise Halt


class Remote:
    """A proxy for a function, class or object of the program."""

    def __init__(self, conversation: Conversation, what: str | int, kind: str) -> None:
        vars(self).update(_conversation=conversation, _what=what, _kind=kind)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._called(arguments, keywords, in_place=False)

    def changing(self, *arguments: Any, **keywords: Any) -> Any:
        return self._called(arguments, keywords, in_place=True)

    def _called(self, arguments: tuple[Any, ...], keywords: dict[str, Any], *, in_place: bool) -> Any:
        conversation = self._conversation
        data = conversation.send(list(arguments)), {name: conversation.send(item) for name, item in keywords.items()}
        number, reply = conversation.ask(["call", self._what, *data])
        if reply is None:
            makes_object = isinstance(self._what, str) and self._what[:1].isupper()
            return Remote(conversation, number, "guess") if makes_object else Guess(conversation, number)
        value = conversation.receive(number, reply)
        if "after" in reply:
            if in_place or value is None or conversation.changing:
                conversation.repeat(arguments, keywords, reply["after"])
            else:
                conversation.unchanged = True
        return value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        number, reply = self._conversation.ask(["get", self._what, name])
        if reply is None:
            return Remote(self._conversation, number, "guess")
        return self._conversation.receive(number, reply)

    def __setattr__(self, name: str, value: Any) -> None:
        number, reply = self._conversation.ask(["set", self._what, name, self._conversation.send(value)])
        if reply is not None:
            self._conversation.receive(number, reply)

    def _is_no_data(self, *_: Any) -> NoReturn:
        self._conversation.no_data = (
            f"TypeError: the test uses {self._kind!r} of the program as data, but it is an object"
        )
        raise TypeError(self._conversation.no_data)

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __repr__ = __str__ = __format__ = _is_no_data
    __hash__ = object.__hash__


class Opaque:
    """An object without a data type, inside data. It equals nothing, including itself."""

    def __init__(self, kind: Any) -> None:
        self.kind = str(kind)

    def _is_no_data(self, *_: Any) -> NoReturn:
        raise TypeError(f"the program returned data with an object of class {self.kind!r} in it")

    __bool__ = __eq__ = __ne__ = __hash__ = __repr__ = __str__ = __format__ = _is_no_data


class Guess:
    """A placeholder for an unknown result. It accepts every operation."""

    def __init__(self, conversation: Conversation, number: int) -> None:
        self._conversation, self._number = conversation, number

    def __getattr__(self, name: str) -> Any:
        return self

    def _itself(self, *_: Any, **__: Any) -> Any:
        self._conversation.guess()
        return self

    def _true(self, *_: Any) -> bool:
        self._conversation.guess()
        return True

    def _zero(self, *_: Any) -> int:
        self._conversation.guess()
        return 0

    def __iter__(self) -> Iterator[Any]:
        self._conversation.guess()
        return iter(())

    def __float__(self) -> float:
        return float(self._zero())

    def __next__(self) -> Any:
        return self._itself()

    def __str__(self) -> str:
        return ""

    __call__ = __getitem__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _itself
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = _itself
    __neg__ = __pos__ = __abs__ = __round__ = __and__ = __or__ = __xor__ = __rand__ = __ror__ = __enter__ = _itself
    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __exit__ = _true
    __len__ = __int__ = __index__ = __hash__ = __setitem__ = __delitem__ = _zero


def main() -> None:
    job = json.loads(sys.stdin.read())
    reply = own_output()
    with (
        open(CALLS, encoding="utf-8") as calls,
        open(REPLIES, encoding="utf-8", errors="replace", newline="") as replies,
    ):
        known = json.load(calls), replies.read().split("\n")[:-1]
    conversation = Conversation(job["test"], *known)
    word, detail = outcome_of(job, conversation)
    changing = Conversation(job["test"], *known, changing=True)
    if word == "failed" and conversation.unchanged and outcome_of(job, changing)[0] == "passed":
        word, detail = (
            "unfit",
            "its result depends on how the program changes an argument of a call that also returns a value",
        )
    write(reply, f"{word}\n{detail}")
    os._exit(0)


def outcome_of(job: dict[str, Any], conversation: Conversation) -> tuple[str, str]:
    """Run the test. Return the word and the second line of the reply."""
    detail = ""
    try:
        run_test(job, conversation)
    except Halt:
        pass
    except BaseException as error:  # a test may raise any class
        detail = (
            "an assertion"
            if isinstance(error, AssertionError)
            else " ".join(f"{type(error).__name__}: {error}".split())
        )
        detail = detail[:DETAIL_CHARACTERS]
    if conversation.unfit:
        return "unfit", conversation.unfit
    if conversation.missing:
        return "missing", ""
    if conversation.guessing:
        return "more", json.dumps(conversation.asked)
    if len(conversation.asked) == MOST_CALLS:
        return "unfit", f"it makes {MOST_CALLS} calls or more"
    if not conversation.asked:
        return "unfit", f"it calls no function of the program{detail and f' ({detail})'}"
    detail = conversation.no_data or detail
    return ("failed", detail) if detail else ("passed", "")


def run_test(job: dict[str, Any], conversation: Conversation) -> None:
    space: dict[str, Any] = {"__name__": "test"}
    for template in ("from {} import *", "import {}"):
        exec("\n".join(template.format(name) for name in MODULES.split()), space)
    space.update(ListNode=ListNode, TreeNode=TreeNode)
    space.update(builders(space))
    exec(job["prefix"], space)
    space.update({name: Remote(conversation, name, name) for name in job["names"]})
    space[GUARD] = conversation
    tree = ast.fix_missing_locations(Rewriting().visit(ast.parse(job["test"])))
    exec(compile(tree, "<test>", "exec", dont_inherit=True), space)


class Rewriting(ast.NodeTransformer):
    """Ignore failed assertions while placeholders are used, and mark calls with a dropped result as changing arguments."""

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        [wrapped] = ast.parse(f"try: pass\nexcept Exception:\n    if not {GUARD}.guessing: raise").body
        assert isinstance(wrapped, ast.Try)
        wrapped.body = [node]
        return wrapped

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        if isinstance(node.value, ast.Call):
            dropped = ast.Attribute(value=ast.Name(id=GUARD, ctx=ast.Load()), attr="dropped", ctx=ast.Load())
            node.value.func = ast.Call(func=dropped, args=[node.value.func], keywords=[])
        return node


def replace_content(mine: Any, changed: Any) -> None:
    """Replace the content of a list, dict, set or bytearray of the test with the content after the program's call."""
    if type(mine) is not type(changed):
        return
    if isinstance(mine, list | bytearray):
        mine[:] = changed
    elif isinstance(mine, dict | set):
        mine.clear()
        mine.update(changed)


def packed_for_program(value: Any) -> Any:
    """Return a value as `packed` does, with the program's objects by number. Raises Unfit for values that cannot be sent."""
    if isinstance(value, Guess):
        return {"result": value._number}
    if isinstance(value, Remote):
        if isinstance(value._what, str):
            raise Unfit(f"it passes {value._what!r} of the program to the program")
        return {"result": value._what}
    if isinstance(value, list):
        return [packed_for_program(item) for item in value]
    if isinstance(value, tuple):
        items = [packed_for_program(item) for item in value]
        fields = field_names(value)
        return {"named_tuple": [type(value).__name__, fields, items]} if fields else {"tuple": items}
    if isinstance(value, type) or callable(value):
        name = value.__name__ if value in vars(builtins).values() else ""
        if not name:
            raise Unfit("it passes a function to the program")
        return {"builtin": name}
    data = packed(value)
    if '{"object"' in json.dumps(data):
        raise Unfit(f"it passes an object of the class {type(value).__name__!r} to the program")
    return data


if __name__ == "__main__":
    main()
