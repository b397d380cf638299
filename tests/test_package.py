"""What `import sod` offers, and what it costs."""

import subprocess
import sys
from pathlib import Path

import pytest
from warm import run_warm

import sod
from sod.errors import SodError

AFRESH = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "sod"]:
    del sys.modules[name]
"""
"""Forget this package, so that it is imported anew. PyTorch and Transformers stay imported."""


def in_new_process(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_importing_the_package_and_its_options_does_not_load_torch() -> None:
    program = """if True:
        import sys, sod
        print([name for name in ("torch", "transformers", "pydantic") if name in sys.modules])
        from sod import EvalOptions, TrainOptions
        print("torch" in sys.modules)
    """
    assert in_new_process(program) == "[]\nFalse\n"


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "import sod.training.on_policy", "from sod.training.on_policy import train"])
def test_train_is_the_function_whatever_was_imported_before(before: str) -> None:
    program = f"""if True:
        {before}
        from sod import core, evaluate, train
        print(type(train).__name__, train.__module__, type(evaluate).__name__, type(core).__name__)
    """
    assert run_warm(["-c", AFRESH + program]).stdout == "function sod.training.on_policy function module\n"


def test_every_public_name_exists() -> None:
    assert {name: getattr(sod, name) for name in sod.__all__}.keys() == set(sod.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'tarin'"):
        _ = sod.tarin


def test_train_raises_the_errors_of_the_command_line(tmp_path: Path) -> None:
    options = sod.TrainOptions(student=tmp_path / "none", data=tmp_path / "none.jsonl", out=tmp_path / "run")
    with pytest.raises(SodError):
        sod.train(options)


def test_the_package_is_marked_as_typed() -> None:
    assert sod.__file__ is not None
    assert Path(sod.__file__).with_name("py.typed").exists()
