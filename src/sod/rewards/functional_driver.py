"""Calls functions of a student's program inside the sandbox, and writes what they returned. Standard library only.

This file is the program that the sandbox runs. The student's own program is the file `program.py`. The job comes on
standard input as JSON:

    {"prefix": source, "function": name, "arguments": [...]}        one call, by name
    {"prefix": source, "candidate": source, "expression": source}   one call, as source
    {"prefix": source, "calls": [...]}                              many, in order (see `perform`)

For one call the reply on standard output is the value as `plain` writes it. For many it is a line of JSON for each. What
the program prints is discarded. No expected value is in this process: a program that forges a reply must know the answer.
If anything goes wrong there is no reply.

`sod.rewards.check_driver` runs the tests in another process, and shares the values of this file.
"""

import collections
import datetime
import fractions
import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from numbers import Integral, Real
from types import ModuleType
from typing import Any

PROGRAM = "program.py"
LONGEST = 1_000_000
"""Nodes of a list or tree that are written; one that is longer is a circle."""
LONGEST_ITERATOR, ITERATOR_SECONDS = 100_000, 1.0
"""How far an iterator is read. It may be endless."""
WIDEST_INT = 1 << 63
"""Larger integers are written in hexadecimal, which takes no quadratic time."""
RECURSION = 50_000
"""Depth of calls, as LiveCodeBench allows it."""
MODULES = (
    "typing string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys "
    "json builtins"
)
"""What LeetCode's programs take for granted: all names of these modules, later ones first, and the modules themselves."""


class ListNode:
    """LeetCode's singly linked list."""

    def __init__(self, val: Any = 0, next: Any = None) -> None:
        self.val = val
        self.next = next


class TreeNode:
    """LeetCode's binary tree."""

    def __init__(self, val: Any = 0, left: Any = None, right: Any = None) -> None:
        self.val = val
        self.left = left
        self.right = right


def main() -> None:
    job = json.loads(sys.stdin.read())
    reply = own_output()
    if "calls" in job:
        for line in perform(job):
            write(reply, line + "\n")
    else:
        write(reply, json.dumps(plain(value_of(job)), separators=(",", ":")))
    os._exit(0)  # whatever the program has left for the end of the process


def own_output() -> int:
    """A descriptor of standard output that `print` does not reach."""
    reply = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    return reply


def write(descriptor: int, text: str) -> None:
    data = text.encode()
    while data:
        data = data[os.write(descriptor, data) :]


def value_of(job: dict[str, Any]) -> Any:
    space = loaded(job["prefix"])
    if "function" in job:
        return named(space, job["function"])(*job["arguments"])
    scope = space | builders(space)
    if job["candidate"]:
        scope["candidate"] = eval(job["candidate"], scope)
    return eval(job["expression"], scope)


def perform(job: dict[str, Any]) -> Iterator[str]:
    """The reply to each call, as JSON.

        ["call", what, [value, ...], {name: value}]    ["get", what, name]    ["set", what, name, value]

    `what` is a name of the program, or the number of the call that returned it. The reply is `{"value": value}`, with
    `after`, the arguments, where the call has changed them; or `{"raised": [names of classes], "arguments": value}`.
    """
    space = loaded(job["prefix"])
    results: list[Any] = []
    makers = builders(space) | {
        "array": as_array,
        "result": results.__getitem__,
        "builtin": vars(sys.modules["builtins"]).__getitem__,
    }

    def opened(data: Any) -> Any:
        return unpacked(data, makers)

    for kind, what, *rest in job["calls"]:
        value = None
        try:
            subject = named(space, what) if isinstance(what, str) else results[what]
            if kind == "call":
                arguments, keywords = opened(rest[0]), {name: opened(data) for name, data in rest[1].items()}
                value = subject(*arguments, **keywords)
                after = [packed(arguments), {name: packed(item) for name, item in keywords.items()}]
                reply = {"value": packed(value)} | ({} if after == rest else {"after": after})
            elif kind == "get":
                value = getattr(subject, rest[0])
                reply = {"value": packed(value)}
            else:
                setattr(subject, rest[0], opened(rest[1]))
                reply = {"value": None}
        except Exception as error:  # the program's
            names = [each.__name__ for each in type(error).__mro__ if each.__module__ == "builtins"]
            reply = {"raised": names, "arguments": packed(list(error.args))}
        results.append(value)
        yield json.dumps(reply, separators=(",", ":"))


def loaded(prefix: str) -> dict[str, Any]:
    """The names of the program, after it has run as a module: `__name__` is not `__main__`, as on LeetCode."""
    module = sys.modules["program"] = ModuleType("program")
    space = vars(module)
    for template in ("from {} import *", "import {}"):
        exec("\n".join(template.format(name) for name in MODULES.split()), space)
    space.update(ListNode=ListNode, TreeNode=TreeNode)
    sys.setrecursionlimit(RECURSION)
    exec(prefix, space)
    with open(PROGRAM, encoding="utf-8", errors="surrogatepass", newline="") as file:
        exec(compile(file.read(), PROGRAM, "exec", dont_inherit=True), space)
    return space


def named(space: dict[str, Any], name: str) -> Any:
    """The method of a new `Solution`, or else the function."""
    if hasattr(space.get("Solution"), name):
        return getattr(space["Solution"](), name)
    return space[name]


def builders(space: dict[str, Any]) -> dict[str, Any]:
    """What assertions are written with: `list_node` and `tree_node` make nodes, of the program's own class if it has one,
    from values in LeetCode's order; `is_same_list` and `is_same_tree` compare them.
    """

    def list_node(values: list[Any]) -> Any:
        head = None
        for value in reversed(values):
            node = space["ListNode"](value)
            node.next, head = head, node
        return head

    def tree_node(values: list[Any]) -> Any:
        nodes = [None if value is None else space["TreeNode"](value) for value in values]
        parents = (node for node in nodes if node is not None)
        for at in range(1, len(nodes), 2):
            parent = next(parents)
            parent.left, parent.right = nodes[at], nodes[at + 1] if at + 1 < len(nodes) else None
        return nodes[0] if nodes else None

    def is_same(one: Any, other: Any) -> bool:
        return plain(one) == plain(other)

    return {"list_node": list_node, "tree_node": tree_node, "is_same_list": is_same, "is_same_tree": is_same}


def plain(value: Any) -> Any:
    """A value as JSON can hold it: tuples are lists, and an object names the kind of what JSON has no word for.

    Those kinds are `dict` (pairs), `set`, `list_node`, `tree_node` (values in LeetCode's order) and `other` (a name),
    which equals nothing.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[plain(key), plain(item)] for key, item in value.items()]}
    if isinstance(value, set | frozenset):
        return {"set": [plain(item) for item in value]}
    if isinstance(value, Integral):  # NumPy's
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if hasattr(value, "val") and hasattr(value, "next"):
        return listed(value)
    if hasattr(value, "val") and hasattr(value, "left") and hasattr(value, "right"):
        return levels(value)
    return {"other": type(value).__name__}


def listed(node: Any) -> dict[str, Any]:
    """A linked list."""
    values: list[Any] = []
    while node is not None:
        if len(values) == LONGEST:
            return {"other": "endless list"}
        values.append(plain(node.val))
        node = node.next
    return {"list_node": values}


def levels(root: Any) -> dict[str, Any]:
    """A tree, level by level: null for a missing child, none at the end."""
    values: list[Any] = []
    nodes = [root]
    for node in nodes:  # which grows
        if len(nodes) > LONGEST:
            return {"other": "endless tree"}
        values.append(None if node is None else plain(node.val))
        nodes += [] if node is None else [node.left, node.right]
    while values[-1] is None:
        values.pop()
    return {"tree_node": values}


# Values that keep their types, for calls in a conversation


def packed(value: Any) -> Any:
    """A value as JSON can hold it. What is no data becomes `{"object": name of its class}`.

    Subclasses of a type of data are written as that type.
    """
    try:
        return _packed(value)
    except RecursionError:  # a circle
        return {"object": type(value).__name__}


def _packed(value: Any) -> Any:
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return value if -WIDEST_INT < value < WIDEST_INT else {"int": hex(value)}
    if isinstance(value, list):
        return [_packed(item) for item in list.__iter__(value)]
    for kind, (of, data) in KINDS.items():
        if isinstance(value, of):
            return {kind: _packed(data(value))}
    if isinstance(value, Iterator):
        return _drained(value)
    if isinstance(value, Integral):  # NumPy's
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return {"array": _packed(value.tolist())}
    if isinstance(value, type) or callable(value):
        return {"object": type(value).__name__}
    if hasattr(value, "val") and (hasattr(value, "next") or (hasattr(value, "left") and hasattr(value, "right"))):
        return listed(value) if hasattr(value, "next") else levels(value)
    return {"object": type(value).__name__}


KINDS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "tuple": (tuple, lambda value: list(tuple.__iter__(value))),
    "dict": (dict, lambda value: [list(pair) for pair in dict.items(value)]),
    "set": (set, list),
    "frozenset": (frozenset, list),
    "bytes": (bytes, lambda value: value.hex()),
    "bytearray": (bytearray, lambda value: value.hex()),
    "range": (range, lambda value: [value.start, value.stop, value.step]),
    "complex": (complex, lambda value: [value.real, value.imag]),
    "deque": (collections.deque, list),
    "view": ((type({}.keys()), type({}.values()), type({}.items())), list),
    "fraction": (fractions.Fraction, lambda value: [value.numerator, value.denominator]),
    "decimal": (Decimal, str),
    "datetime": (datetime.datetime, datetime.datetime.isoformat),
    "date": (datetime.date, datetime.date.isoformat),
}
"""Types of data besides those of JSON: what they are, and of what they are made."""
MAKERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "tuple": tuple,
    "dict": dict,
    "set": set,
    "frozenset": frozenset,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": lambda ends: range(*ends),
    "complex": lambda parts: complex(*parts),
    "deque": collections.deque,
    "view": list,
    "fraction": lambda parts: fractions.Fraction(*parts),
    "decimal": Decimal,
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
}


def _drained(values: Iterator[Any]) -> dict[str, Any]:
    """The items of an iterator, and whether these are all."""
    items: list[Any] = []
    end = time.monotonic() + ITERATOR_SECONDS
    for value in itertools.islice(values, LONGEST_ITERATOR + 1):
        if len(items) == LONGEST_ITERATOR or time.monotonic() > end:
            return {"iterator": items, "more": True}
        items.append(_packed(value))
    return {"iterator": items}


def unpacked(data: Any, makers: dict[str, Callable[[Any], Any]]) -> Any:
    """The value that `packed` has written. `makers` make what is no data: nodes, objects, results of earlier calls."""
    if isinstance(data, list):
        return [unpacked(item, makers) for item in data]
    if not isinstance(data, dict):
        return data
    kind = next(iter(data))
    inner = unpacked(data[kind], makers)
    if kind == "iterator":
        return _read(inner, endless="more" in data)
    return MAKERS[kind](inner) if kind in MAKERS else makers[kind](inner)


def as_array(items: list[Any]) -> Any:
    return importlib.import_module("numpy").array(items)


def _read(items: list[Any], *, endless: bool) -> Iterator[Any]:
    yield from items
    if endless:
        raise RuntimeError(f"an iterator was read beyond {len(items)} items")


if __name__ == "__main__":
    main()
