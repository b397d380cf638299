"""`sod doctor`: what it says of a sandbox that confines, and of one that does not."""

import pytest
from confining import needs_confinement

from sod.cli import run
from sod.planning.doctor import BOUNDLESS, HOSTILE, examples

QUICK = ["--programs", "20"]


def checks(out: str, *, good: bool) -> list[str]:
    mark = "ok " if good else "BAD"
    return [line for line in out.splitlines() if line[10:13] == mark]


@needs_confinement
def test_a_machine_that_confines_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", *QUICK]) == 0
    out, err = capsys.readouterr()
    assert "Landlock" in out
    assert "seccomp" in out
    assert len(checks(out, good=True)) == len(HOSTILE) + len(BOUNDLESS) + len(examples())
    assert out.rstrip().endswith("checks passed.")
    assert not checks(out, good=False)
    assert not err


def test_a_sandbox_that_does_not_confine_fails_by_what_got_through(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", *QUICK, "--sandbox.backend", "unsafe_subprocess"]) == 1
    out, err = capsys.readouterr()
    bad = checks(out, good=False)
    assert len(bad) >= 6
    assert all("got through" in line for line in bad)
    assert any("read a file of yours" in line for line in bad)
    assert "checks failed: read a file of yours: got through; " in err


def test_a_server_that_is_not_there_fails_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    server = ["--sandbox.backend", "fusion", "--sandbox.url", "http://127.0.0.1:1", "--sandbox.retries", "0"]
    assert run(["doctor", *QUICK, *server]) == 75
    assert "http://127.0.0.1:1" in capsys.readouterr().err
