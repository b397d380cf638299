"""Landlock: the rights that each version of the kernel's interface knows, and what holds on the kernel at hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from confining import needs_confinement

from sod.sandbox import landlock
from sod.sandbox.confinement import Confinement, confinement, readable

TRY = """
import os, sys
from sod.sandbox import landlock
from sod.sandbox.libc import PR_SET_NO_NEW_PRIVS, prctl

version, own, secret = int(sys.argv[1]), sys.argv[2], sys.argv[3]
grants = landlock.open_all([own], landlock.OWN) + landlock.open_all(["/dev/null", "/nowhere"], landlock.DEVICE)
prctl(PR_SET_NO_NEW_PRIVS, 1)
landlock.restrict(version, grants)

def attempt(name, act):
    try:
        act()
        print(name)
    except OSError:
        pass

attempt("write", lambda: open(own + "/new", "w").write("x"))
attempt("read", lambda: open(own + "/new").read())
attempt("make", lambda: os.makedirs(own + "/a/b"))
attempt("remove", lambda: os.remove(own + "/new"))
attempt("null", lambda: open("/dev/null", "w").write("x"))
attempt("SECRET", lambda: open(secret).read())
attempt("LIST", lambda: os.listdir("/"))
attempt("PARENT", lambda: os.listdir(own + "/.."))
attempt("DELETE", lambda: os.remove(secret))
attempt("LINK", lambda: os.link(secret, own + "/link"))
attempt("EXECUTE", lambda: os.execv("/bin/true", ["true"]))
"""


def test_a_right_is_handled_only_by_versions_that_know_it() -> None:
    files = {version: landlock.rights(version)[0] for version in range(1, 9)}
    assert files == {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF, 6: 0xFFFF, 7: 0xFFFF, 8: 0xFFFF}
    assert [landlock.rights(version)[1] for version in (3, 4)] == [0, 3]
    assert [landlock.rights(version)[2] for version in (5, 6)] == [0, 3]


@needs_confinement
@pytest.mark.parametrize("version", range(1, 8))
def test_a_process_keeps_what_is_granted_and_nothing_else_as_on_every_kernel(version: int, tmp_path: Path) -> None:
    if version > landlock.version():
        pytest.skip("the kernel is older")
    own, secret = tmp_path / "own", tmp_path / "secret"
    own.mkdir()
    secret.write_text("secret")
    command = [sys.executable, "-c", TRY, str(version), str(own), str(secret)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["write", "read", "make", "remove", "null"], "")


@needs_confinement
def test_this_machine_confines_and_says_how() -> None:
    found = confinement()
    assert found.missing == ()
    assert found.landlock == landlock.version()
    assert found.seccomp == os.uname().machine
    assert f"Landlock {found.landlock}" in found.lines()[0]
    assert found.seccomp in found.lines()[1]


def test_what_is_missing_is_told() -> None:
    reason = "Landlock: the kernel does not support it"
    assert Confinement(missing=(reason,)).lines() == ["programs cannot be confined", reason]


def test_of_a_project_nothing_is_readable() -> None:
    project = Path(__file__).parents[1]
    paths = [Path(path) for path in readable()]
    assert not [path for path in paths if project.is_relative_to(path) or path == project / "src"]
