"""Imports point down, and what must be light stays light."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest

import sod

ROOT = Path(sod.__file__).parent

# From low to high. A module imports what stands in a lower line, and nothing else: not its neighbours. A name stands
# for the whole package, unless one of its modules has a place of its own.
LAYERS = """
    sod  core  errors  memory  patterns  statistics  interrupts  screen  text
    config  types  sandbox  rewards  concurrency  attention  ranks  files
    measures  shapes  calls
    conversations
    sandbox.libc  sandbox.interpreter  sandbox.folders  sandbox.capture  sandbox.fusion_driver
    sandbox.landlock  sandbox.seccomp
    sandbox.confinement
    sandbox.child
    sandbox.zygote
    engines.vllm_worker
    sandbox.local  batching  templates  harmless  engines  progress  alarms  recipes  plugins  checkpoints  locks
    runs  samples  chat  rewards.functional_driver
    processes  hub
    rewards.answers  rewards.symbolic  rewards.symbolic_worker  rewards.check_driver
    rewards.exact  rewards.choice  rewards.reference  rewards.code_tests  rewards.shaping
    rewards.structure  rewards.units
    rewards.forms  rewards.code_asserts  sharding  trainer_state
    rewards.code_golds  forward
    rewards.math  rewards.code  rewards.reference_code  proof
    sandbox.fusion  models  tools  lora  engines.http  rewards.golds
    data  sandbox.guarded  rewards.referee  engines.hf  engines.scripted  engines.vllm  tools.python  tools.own  teachers  policy
    engines.vllm_server  engines.served
    teachers.local  teachers.server  scoring  agent
    teachers.opening  teachers.divided
    world
    rollout  algorithms  metrics  engines.opening  teachers.privileged  datasets
    inventory  inputs
    plan  records  results
    sft  train  evaluate  differences  calibrate  doctor  report  sizing
    lab  comparison  demonstrate
    compare  export  adapters  arguments
    cli
    __main__
"""
LEVEL = {
    "sod" if name == "sod" else f"sod.{name}": level
    for level, line in enumerate(LAYERS.strip().splitlines())
    for name in line.split()
}
WITHIN = {"sod.core", "sod.datasets", "sod.export", "sod.lab", "sod.report"}
"""Packages of one place, whose modules import each other: without circles."""

MODULES = {
    ".".join(("sod", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def place(module: str) -> str:
    """The line's entry that a module belongs to."""
    while module not in LEVEL:
        module, dot, _ = module.rpartition(".")
        assert dot, "no place in LAYERS"
    return module


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
    places = {place(module) for module in MODULES if module != "sod"} | {"sod"}
    assert places == set(LEVEL)
    assert not [module for module in MODULES if module != "sod" and place(module) == "sod"]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    here = place(module)
    for name in ours(MODULES[module]):
        there = place(name)
        assert LEVEL[there] < LEVEL[here] or (there == here and here in WITHIN), f"{module} imports {name}"


def test_modules_of_one_package_do_not_import_in_circles() -> None:
    left = {module: ours(path) - {module} for module, path in MODULES.items()}
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
            "sod.config sod.errors sod.types sod.runs sod.data sod.cli sod.alarms sod.report sod.tools.python "
            "sod.sandbox.guarded sod.rewards.referee",
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
