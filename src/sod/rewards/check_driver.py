"""Runs the tests of a program inside the sandbox, in a process that never holds the program. Standard library only.

`sod.rewards.code` sends this file as the program to run, and as files the results of the program's calls so far:

    CALLS     the calls that the program was asked for, as `sod.rewards.functional_driver` describes them
    REPLIES   its replies, a line for each

The job comes on standard input as JSON: {"prefix": source, "test": source, "names": [...]}. In the test, the `names`
stand for the program's. What is called, and with what, is looked up in the calls; the reply is data, which is rebuilt
from plain types. So every comparison, operator and builtin of the test is Python's own, out of the program's reach.

A call that was not yet asked for is guessed: the test goes on with a stand-in for its result, assertions that fail are
passed over, and further calls are noted. The reply's first line is a word:

    passed        the test has run to its end, with a reply to every call
    failed        likewise, with an error; the second line says which
    missing       the test needs a reply that the program did not give
    more          the second line holds the calls to ask for next, as JSON
    unfit         the test cannot be run so; the second line says why
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
    own_output,
    packed,
    unpacked,
    write,
)

CALLS, REPLIES = "calls.json", "replies.jsonl"
GUARD = "__sod_conversation__"
"""The name by which a rewritten test finds the conversation."""
MOST_CALLS, MOST_GUESSES = 10_000, 100_000
"""Calls of a test, and questions that a test asks a stand-in: it may loop for ever on one."""
DETAIL_CHARACTERS = 120
ENDS_A_LOOP = {"StopIteration", "StopAsyncIteration"}


class Halt(BaseException):
    """Ends the test: it is known that nothing more can be learned in this round."""


class Unfit(Exception):
    """The test passes the program something that is no data."""


class Conversation:
    """What the test asks the program, and what it gets."""

    def __init__(self, test: str, calls: list[Any], replies: list[str], *, changing: bool = False) -> None:
        """With `changing`, every call does to the test's arguments what it does to the program's."""
        self.test = test
        self.changing = changing
        self.unchanged = False
        """Whether a call has changed the program's arguments, and not the test's."""
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
        """What the test has taken for data. It may have caught the error, and it fails all the same."""

    def ask(self, call: list[Any]) -> tuple[int, Any]:
        """The call's number, and its reply; None for one that must be guessed."""
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
        """A value as the program is sent it."""
        try:
            return packed_for_program(value)
        except Unfit as error:
            if not self.guessing:
                self.unfit = str(error)
            raise Halt from error

    def receive(self, number: int, reply: Any) -> Any:
        """The value of a reply: of plain types alone."""
        if "raised" in reply:
            raise self.as_raised(reply)
        data = reply["value"]
        if isinstance(data, dict) and "object" in data:
            return Remote(self, number, str(data["object"]))
        return unpacked(data, self.makers)

    def as_raised(self, reply: Any) -> Exception:
        """The exception of a reply, as the nearest that Python itself has."""
        arguments = unpacked(reply["arguments"], self.makers)
        for name in reply["raised"]:
            kind = vars(builtins).get(name)
            if name in ENDS_A_LOOP and name not in self.test:  # `all(map(f, ...))` would take it for the end
                kind = RuntimeError
            if isinstance(kind, type) and issubclass(kind, Exception):
                try:
                    return kind(*arguments)
                except TypeError:  # one with arguments of its own
                    continue
        return Exception(*arguments)

    def repeat(self, arguments: tuple[Any, ...], keywords: dict[str, Any], after: Any) -> None:
        """Do to the test's own arguments what a call has done to the program's."""
        for mine, changed in zip(arguments, after[0], strict=True):
            replace_content(mine, unpacked(changed, self.makers))
        for name, mine in keywords.items():
            replace_content(mine, unpacked(after[1][name], self.makers))

    def dropped(self, function: Any) -> Any:
        """The function, where its result is dropped: then it is called for what it does to its arguments."""
        return function.changing if isinstance(function, Remote) else function

    def guess(self) -> None:
        self.guesses += 1
        if self.guesses > MOST_GUESSES:
            raise Halt


class Remote:
    """A function, class or object of the program."""

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
        self._conversation.no_data = f"TypeError: the program returned {self._kind!r}, which is no data"
        raise TypeError(self._conversation.no_data)

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __repr__ = __str__ = __format__ = _is_no_data
    __hash__ = object.__hash__


class Opaque:
    """Within data, what is none. It equals nothing, itself included."""

    def __init__(self, kind: Any) -> None:
        self.kind = str(kind)

    def _is_no_data(self, *_: Any) -> NoReturn:
        raise TypeError(f"the program returned {self.kind!r} within data")

    __bool__ = __eq__ = __ne__ = __hash__ = __repr__ = __str__ = __format__ = _is_no_data


class Guess:
    """Stands for a result that is not yet known, and goes along with anything."""

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
    word, detail = held(job, conversation)
    changing = Conversation(job["test"], *known, changing=True)
    if word == "failed" and conversation.unchanged and held(job, changing)[0] == "passed":
        word, detail = "unfit", "it depends on how the program changes an argument of a call whose result it uses"
    write(reply, f"{word}\n{detail}")
    os._exit(0)


def held(job: dict[str, Any], conversation: Conversation) -> tuple[str, str]:
    """The word and the second line of the reply."""
    detail = ""
    try:
        run_test(job, conversation)
    except Halt:
        pass
    except BaseException as error:  # of the test, which may raise anything
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
        return "unfit", f"it calls nothing of the program{detail and f' ({detail})'}"
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
    """A guess makes no assertion fail, and a call whose result is dropped is one that changes its arguments."""

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
    """Give a list, dict, set or bytearray of the test the content that the program has left in its own."""
    if type(mine) is not type(changed):
        return
    if isinstance(mine, list | bytearray):
        mine[:] = changed
    elif isinstance(mine, dict | set):
        mine.clear()
        mine.update(changed)


def packed_for_program(value: Any) -> Any:
    """As `packed`, with the program's own objects by number. Raises Unfit for what the program cannot be sent."""
    if isinstance(value, Guess):
        return {"result": value._number}
    if isinstance(value, Remote):
        if isinstance(value._what, str):
            raise Unfit(f"it passes the program's own {value._what!r} to it")
        return {"result": value._what}
    if isinstance(value, list):
        return [packed_for_program(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [packed_for_program(item) for item in value]}
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
