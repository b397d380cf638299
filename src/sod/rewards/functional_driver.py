"""Call functions of a student's program inside the sandbox and write their results. Standard library only.

This file is the program that the sandbox runs. The student's own program is the file `program.py`. The job is JSON on standard
input:

    {"prefix": source, "function": name, "arguments": [...]}        one call, by name
    {"prefix": source, "candidate": source, "expression": source}   one call, as source
    {"prefix": source, "calls": [...]}                              several calls, in order (see `perform`)

The reply to one call is the value on standard output, in the form of `plain`. The reply to several calls is one line of JSON per
call. Output of the program is discarded. After any error there is no reply. This process contains no expected value, so a program
that forges a reply must compute the answer.

`sod.rewards.check_driver` runs the tests in another process and imports the value formats of this file.
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
"""Limit on the nodes of a list or tree. A longer one is taken for a cycle."""
LONGEST_ITERATOR, ITERATOR_SECONDS = 100_000, 1.0
"""Limits on reading an iterator, in items and seconds. It may be endless."""
WIDEST_INT = 1 << 63
"""Limit on integers in decimal. Larger ones are written in hexadecimal, because decimal conversion takes quadratic time."""
RECURSION = 50_000
"""Recursion limit, as in LiveCodeBench."""
MODULES = (
    "typing string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys "
    "json builtins"
)
"""Modules that LeetCode preloads. Their names are imported in this order, so later ones win, and the modules themselves."""


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
    os._exit(0)  # without exit handlers and threads of the program


def own_output() -> int:
    """Return a descriptor of standard output that `print` cannot use."""
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
    """Yield the reply to each call, as JSON.

        ["call", what, [value, ...], {name: value}]    ["get", what, name]    ["set", what, name, value]

    `what` is a name in the program, or the number of the call that returned the object. The reply is `{"value": value}`, or
    `{"raised": [names of classes], "arguments": value}`. `after` holds the arguments if the call has changed them.
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
        except Exception as error:  # raised by the program
            names = [each.__name__ for each in type(error).__mro__ if each.__module__ == "builtins"]
            reply = {"raised": names, "arguments": packed(list(error.args))}
        results.append(value)
        yield json.dumps(reply, separators=(",", ":"))


def loaded(prefix: str) -> dict[str, Any]:
    """Run the program as a module and return its names. `__name__` is not `__main__`, as on LeetCode."""
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
    """Return the method of a new `Solution`; without one, the function."""
    if hasattr(space.get("Solution"), name):
        return getattr(space["Solution"](), name)
    return space[name]


def builders(space: dict[str, Any]) -> dict[str, Any]:
    """Return the helper functions of assertions.

    `list_node` and `tree_node` create nodes from values in LeetCode's order, of the program's own class if it has one.
    `is_same_list` and `is_same_tree` compare them.
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
    """Return a value as JSON: a tuple is a list, and a type that JSON lacks is an object `{kind: content}`.

    The kinds are `dict` (pairs), `set`, `list_node`, `tree_node` (values in LeetCode's order) and `other` (a class name). `other`
    equals nothing.
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
    """Return a linked list as JSON."""
    values: list[Any] = []
    while node is not None:
        if len(values) == LONGEST:
            return {"other": "endless list"}
        values.append(plain(node.val))
        node = node.next
    return {"list_node": values}


def levels(root: Any) -> dict[str, Any]:
    """Return a tree as JSON, level by level. A missing child is null; nulls at the end are left out."""
    values: list[Any] = []
    nodes = [root]
    for node in nodes:  # the loop appends to this list
        if len(nodes) > LONGEST:
            return {"other": "endless tree"}
        values.append(None if node is None else plain(node.val))
        nodes += [] if node is None else [node.left, node.right]
    while values[-1] is None:
        values.pop()
    return {"tree_node": values}


# Values that keep their types, for several calls


def packed(value: Any) -> Any:
    """Return a value as JSON that keeps its type. A value that is not data becomes `{"object": name of its class}`.

    A subclass of a data type is written as that type. A named tuple keeps its fields.
    """
    try:
        return _packed(value)
    except RecursionError:  # a cycle
        return {"object": type(value).__name__}


def _packed(value: Any) -> Any:
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return value if -WIDEST_INT < value < WIDEST_INT else {"int": hex(value)}
    if isinstance(value, list):
        return [_packed(item) for item in list.__iter__(value)]
    if fields := field_names(value):
        return {"named_tuple": [type(value).__name__, fields, [_packed(item) for item in tuple.__iter__(value)]]}
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
"""Data types that JSON lacks. By kind, the type and a function that returns its content."""
MAKERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "tuple": tuple,
    "named_tuple": lambda parts: collections.namedtuple(parts[0], parts[1], rename=True)(*parts[2]),
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


def field_names(value: Any) -> list[str]:
    """Return the fields of a named tuple; an empty list for other values."""
    if not isinstance(value, tuple):
        return []
    fields = getattr(type(value), "_fields", ())
    named = isinstance(fields, tuple) and len(fields) == tuple.__len__(value)
    return list(fields) if named and all(isinstance(name, str) for name in fields) else []


def _drained(values: Iterator[Any]) -> dict[str, Any]:
    """Return the items of an iterator, with `more` if there are further ones."""
    items: list[Any] = []
    end = time.monotonic() + ITERATOR_SECONDS
    for value in itertools.islice(values, LONGEST_ITERATOR + 1):
        if len(items) == LONGEST_ITERATOR or time.monotonic() > end:
            return {"iterator": items, "more": True}
        items.append(_packed(value))
    return {"iterator": items}


def unpacked(data: Any, makers: dict[str, Callable[[Any], Any]]) -> Any:
    """Return the value that `packed` has written. `makers` create nodes, objects and results of earlier calls."""
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
        raise RuntimeError(f"the test read more than {len(items)} items of an iterator; the others were not sent")


if __name__ == "__main__":
    main()
