"""One name means one thing in the whole package: names that several modules define, with the reason."""

import ast
from collections import defaultdict
from pathlib import Path

import sod

SRC = Path(sod.__file__).parent

PROGRAMS = {
    "rewards/check_driver",
    "rewards/functional_driver",
    "rewards/symbolic_worker",
    "sandbox/child",
    "sandbox/fusion_driver",
    "sandbox/session_child",
    "sandbox/zygote",
}
"""Programs that run alone, in another process: they import little, and their names are their own."""
TWICE = {
    "Attempt": "what a reward of the user's own reads; `sod watch` has a class of its own for a shown trajectory",
    "check": "the command `sod data check`, and the check of options that every run starts with",
    "check_version": "each adapter checks the version of its framework",
    "main": "the entry of a program",
}
"""Names that several modules define -> why. A constant counts if another module imports it; other programs do not count."""


def defined() -> dict[str, dict[str, bool]]:
    """Public names of all modules: name -> module -> whether it is a function or a class."""
    names: dict[str, dict[str, bool]] = defaultdict(dict)
    for path in sorted(SRC.rglob("*.py")):
        module = path.relative_to(SRC).with_suffix("").as_posix()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names[node.name][module] = True
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            for target in targets:
                if isinstance(target, ast.Name):
                    names[target.id][module] = False
    return {name: modules for name, modules in names.items() if not name.startswith("_")}


def imported() -> set[tuple[str, str]]:
    """(module, name) of everything that another module of the package imports."""
    found = set()
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sod"):
                module = node.module.removeprefix("sod").removeprefix(".").replace(".", "/")
                found |= {
                    (place, each.name) for each in node.names for place in (module, f"{module}/__init__".strip("/"))
                }
    return found


def test_a_name_has_one_meaning_unless_a_reason_is_given() -> None:
    used = imported()
    found = {}
    for name, modules in defined().items():
        here = modules.keys() - PROGRAMS
        shared = any(modules[module] or (module, name) in used for module in here)
        if len(here) > 1 and shared:
            found[name] = sorted(here)
    assert found.keys() == TWICE.keys(), {name: found.get(name) for name in found.keys() ^ TWICE.keys()}
