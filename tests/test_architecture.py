"""Imports point down, and what must be light stays light."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest

import sod
from sod.engines import Request
from sod.moved import MOVED

ROOT = Path(sod.__file__).parent

# The one order of the project, from low to high: the files and packages of src/sod. A line imports from lower lines alone.
# Within a package, modules import each other without circles.
LAYERS = """
    core  errors  moved  types
    batching  config  processes
    arguments  chat  console  sandbox
    runs
    model  rewards  tools
    engines  environments
    credit  datasets  rollout
    report  teachers
    scoring  trackers  watch
    planning
    evaluation  pipeline
    export  serving  validation
    training
    adapters  lab
    compare
    cli
    __main__
"""
LEVEL = {f"sod.{name}": level for level, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}

MODULES = {
    ".".join(("sod", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def place(module: str) -> str:
    """Return the file or package of src/sod that a module belongs to."""
    return ".".join(module.split(".")[:2])


def imports(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.partition(".")[0] == "sod"}


def test_every_module_has_a_place_and_every_place_a_module() -> None:
    assert {place(module) for module in MODULES} - {"sod"} == set(LEVEL)


def test_imports_point_down() -> None:
    arrows = {(place(module), place(name)) for module, path in MODULES.items() for name in ours(path)}
    assert not [
        f"{here} imports {there}"
        for here, there in sorted(arrows)
        if here != there and "sod" not in (here, there) and LEVEL[there] >= LEVEL[here]
    ]


def test_modules_of_one_package_do_not_import_in_circles() -> None:
    left = {
        module: ours(path) - {module} for module, path in MODULES.items() if module != "sod"
    }  # names, for type checkers
    while free := [module for module, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def test_the_core_needs_torch_and_nothing_else() -> None:
    for module, path in MODULES.items():
        if place(module) == "sod.core":
            roots = {name.partition(".")[0] for name in imports(path)}
            assert roots <= {"sod", "torch"} | sys.stdlib_module_names, module
            assert all(place(name) == "sod.core" for name in ours(path)), module


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            "sod.config sod.errors sod.types sod.runs.directory sod.datasets.rows sod.cli sod.runs.alarms sod.report "
            "sod.tools.python "
            "sod.sandbox.retries sod.rewards.referee",
            "torch transformers sympy numpy",
        ),
        (
            "sod.errors sod.types sod.sandbox.local sod.engines.scripted sod.rewards.math sod.rewards.choice "
            "sod.rewards.code",
            "torch pydantic rich httpx",
        ),
        ("sod.core", "transformers pydantic rich tyro"),
    ],
)
def test_what_is_light_stays_light(modules: str, absent: str) -> None:
    code = f"""
import importlib, sys
for name in {modules.split()}:
    importlib.import_module(name)
print([name for name in {absent.split()} if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_what_a_checkpoint_needs_is_installed_without_an_extra() -> None:
    names = {re.split(r"[\s<>=!~\[;(]", need)[0] for need in requires("sod") or () if "extra ==" not in need}
    assert {"torch", "transformers", "accelerate", "safetensors"} <= names


def test_names_from_before_the_packages_still_import_the_same_module() -> None:
    for old, new in MOVED.items():
        with pytest.warns(DeprecationWarning, match=f"{re.escape(old)} is {re.escape(new)} now"):
            assert importlib.import_module(old) is importlib.import_module(new)
        del sys.modules[old]


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("sod.datasets.rows", "as_demonstration", "demonstration_of"),
        ("sod.tools.python", "schema", "interpreter_schema"),
        ("sod.processes.concurrency", "together", "run_concurrently"),
        ("sod.console.progress", "say", "echo"),
    ],
)
def test_a_function_is_still_found_by_its_old_name_and_another_name_is_an_error(
    module: str, old: str, new: str
) -> None:
    found = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{old} is {new} now"):
        assert getattr(found, old) is getattr(found, new)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = found.no_such_name


def test_the_end_of_a_turn_is_still_given_and_read_as_one_token() -> None:
    old = "stop"
    fields: dict[str, Any] = {"ids": [5, 6], "max_tokens": 4, "seed": 0}
    with pytest.warns(DeprecationWarning, match="Request.stop is Request.stops now"):
        one, none = Request(**fields, **{old: 2}), Request(**fields, **{old: -1})
    assert (one.stops, none.stops) == ((2,), ())
    assert replace(one, max_tokens=5).stops == (2,)
    with pytest.warns(DeprecationWarning, match="Request.stop is Request.stops now"):
        assert [getattr(each, old) for each in (one, none, Request(**fields, stops=(3, 4)))] == [2, -1, 3]
    wrongs: list[dict[str, Any]] = [{}, {"stop": 2, "stops": (2,)}]
    for wrong in wrongs:
        with pytest.raises(TypeError, match="stop"):
            Request(**fields, **wrong)


def test_exit_statuses_are_numbers_in_one_module_alone() -> None:
    defined = re.compile(r"^(?:\w+, )*EXIT_\w+.*= *\d", re.MULTILINE)
    assert [module for module, path in MODULES.items() if defined.search(path.read_text("utf-8"))] == ["sod.errors"]


def test_the_makefile_runs_every_file_of_tests_that_waits_for_a_variable() -> None:
    tests = ROOT.parents[1] / "tests"
    commands = (tests.parent / "Makefile").read_text().replace("\\\n", "").splitlines()
    waiting = {
        (file.name, variable)
        for file in tests.glob("test_*.py")
        for variable in re.findall(r'environ\.get\("(SOD_\w+)"', file.read_text())
    }
    assert waiting
    missing = {
        (name, variable)
        for name, variable in waiting
        if not any(f"{variable}=" in command and f"tests/{name}" in command for command in commands)
    }
    assert not missing
