"""Digests of the files that a run reads beside its data and models: the user's code, rules in text, files of problems.

A run stores them in environment.json. A run that continues refuses a file with another content, because its numbers would
mix two tasks. Every option whose value names such a file has the marker `ReadsFiles`. A file of code counts with the modules in
its folder that it imports. A taskset of verifiers counts with all modules of its package.
"""

import ast
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sod.config import Options
from sod.config.base import CONTENT, options_of
from sod.console.progress import slow_bar
from sod.errors import RunError
from sod.runs.files import sha256_of_file
from sod.types import Problem

TASKSET = re.compile(r"verifiers:(?P<module>[\w.-]+)")
"""An environment verifiers:TASKSET, where TASKSET is a module."""
CODE = re.compile(r"(?:served:)?(?P<file>.+\.py):[^:/]+")
"""FILE.py:NAME, also as the agent of the environment `served`."""


_MODEL = re.compile(r"([0-9a-f]{64})(?::([0-9a-f]{64}))?")


def content_digests(options: Options, sets: Sequence[tuple[Path, Sequence[Problem]]] = ()) -> dict[str, str]:
    """Return the SHA-256 of each file, by a name that stays the same if the data are moved: OPTION: FILE, or data: FILE.

    `sets`: each file of problems, with its problems. Files that do not exist are left out; their readers refuse them.
    """
    named = dict(_of_options(options))
    for number, (path, problems) in enumerate(sets, 1):
        named |= _of_problems("data" if len(sets) == 1 else f"data {number}", path.absolute().parent, problems)
    paths = dict.fromkeys(named.values())
    digests: dict[Path, str] = {}
    with slow_bar("reading files", "digests", len(paths)) as at:
        for number, path in enumerate(paths, 1):
            with suppress(OSError):
                digests[path] = sha256_of_file(path)
            at(number)
    return {name: digests[path] for name, path in sorted(named.items()) if path in digests}


def same_input(before: str | None, now: str | None) -> bool:
    """Return whether two fingerprints are of one input.

    A model of an earlier version has the first of its two digests (`sod.datasets.rows.fingerprint_model`), and is compared by it.
    """
    if before == now or not (before and now):
        return before == now
    one, other = _MODEL.fullmatch(before), _MODEL.fullmatch(now)
    return one is not None and other is not None and one[1] == other[1] and not (one[2] and other[2])


def changed_contents(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of the files that both have, with different contents."""
    return [name for name, digest in now.items() if not same_input(before.get(name, digest), digest)]


def check_contents(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise RunError with the first file whose content has changed since the run in `folder` began."""
    if changed := changed_contents(before, now):
        others = f" and {len(changed) - 1} more files have" if len(changed) > 1 else " has"
        raise RunError(
            f"{changed[0]}{others} changed since the run in {folder} began, so its numbers would mix two tasks. Restore the "
            "content, choose another --out, or accept the new content with --accept-changed."
        )


def _of_options(options: Options) -> Iterator[tuple[str, Path]]:
    for name, _, marks in options_of(type(options)):
        if CONTENT not in marks:
            continue
        value: Any = options
        for part in name.split("."):
            value = getattr(value, part)
        for each in value if isinstance(value, tuple) else (value,):
            for path in _files_of(each):
                yield f"{name}: {path}", path
            if isinstance(each, str) and (found := TASKSET.fullmatch(each)):
                yield from _of_taskset(f"{name}: taskset", found["module"])


def _of_problems(label: str, folder: Path, problems: Sequence[Problem]) -> Iterator[tuple[str, Path]]:
    for problem in problems:
        for path in map(Path, problem.files.values()):
            yield f"{label}: {path.relative_to(folder) if path.is_relative_to(folder) else path}", path
        for path in _files_of(problem.environment):
            yield f"{label}: environment {path}", path
        named = TASKSET.fullmatch(problem.environment)
        if isinstance(taskset := problem.setting.get("taskset", named and named["module"]), str):
            yield from _of_taskset(f"{label}: taskset", taskset)


def _of_taskset(label: str, taskset: str) -> Iterator[tuple[str, Path]]:
    for folder, path in _modules_of(taskset.partition(".")[0].replace("-", "_").lower()):
        yield f"{label} {path.relative_to(folder)}", path


@cache
def _modules_of(package: str) -> tuple[tuple[Path, Path], ...]:
    """Return the modules of an installed or importable package, each after the folder in which the package is."""
    with suppress(ImportError, ValueError):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None and spec.has_location:
            origin = Path(spec.origin)
            if not spec.submodule_search_locations:
                return ((origin.parent, origin),)
            return tuple((origin.parents[1], path) for path in sorted(origin.parent.rglob("*.py")))
    return ()


def _files_of(value: object) -> Iterator[Path]:
    """Yield the files that a value names: a path, a folder, FILE.py:NAME, or a command."""
    if isinstance(value, str) and (found := CODE.fullmatch(value)):
        yield from _with_imports(Path(found["file"]), {})
    elif isinstance(value, str):
        with suppress(OSError, ValueError):  # a text that is too long for a path, or has an open quote, names no file
            words = [value] if Path(value).is_file() else shlex.split(value)
            yield from (Path(word) for word in words if Path(word).is_file())
    elif isinstance(value, Path):
        yield from sorted(each for each in value.rglob("*") if each.is_file()) if value.is_dir() else [value]


def _with_imports(path: Path, seen: dict[Path, None]) -> Iterator[Path]:
    """Yield a file of code, and the modules in its folder that it imports, directly or not."""
    seen[path] = None
    yield path
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError):  # the loader refuses the file
        return
    for name in _imported(tree):
        package = path.parent / name
        modules = sorted(package.rglob("*.py")) if package.is_dir() else [package.with_suffix(".py")]
        for module in modules:
            if module.is_file() and module not in seen:
                yield from _with_imports(module, seen)


def _imported(tree: ast.AST) -> Iterator[str]:
    """Yield the first part of every imported name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
