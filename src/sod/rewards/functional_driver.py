"""Calls a function of a student's program inside the sandbox, and writes what it returned. Standard library only.

`sod.rewards.code` sends this file as the program to run, the student's own as the file `program.py`, and on standard
input the call as JSON:

    {"prefix": source, "function": name, "arguments": [...]}        what to call by its name, and with what
    {"prefix": source, "candidate": source, "expression": source}   what to evaluate

The reply on standard output is the value as `plain` writes it, and nothing else: what the program prints is discarded.
What the value should have been is not here, so a program that gets hold of this process can write a reply of its own,
but is still right only if it knows the answer. If anything goes wrong there is no reply.
"""

import json
import os
import sys
from numbers import Integral, Real
from types import ModuleType
from typing import Any

PROGRAM = "program.py"
LONGEST = 1_000_000
"""Nodes of a list or tree that are written; one that is longer is a circle."""
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
    reply = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    text = json.dumps(plain(value_of(job)), separators=(",", ":")).encode()
    while text:
        text = text[os.write(reply, text) :]
    os._exit(0)  # whatever the program has left for the end of the process


def value_of(job: dict[str, Any]) -> Any:
    space = loaded(job["prefix"])
    if "function" in job:
        return named(space, job["function"])(*job["arguments"])
    scope = space | builders(space)
    if job["candidate"]:
        scope["candidate"] = eval(job["candidate"], scope)
    return eval(job["expression"], scope)


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


if __name__ == "__main__":
    main()
