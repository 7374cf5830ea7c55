# SPDX-License-Identifier: Apache-2.0
"""The command line itself: help, exit codes, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from recon.cli.command import CommonOptions, Outcome
from recon.cli.console import duration, size
from recon.cli.main import COMMANDS, execute, main
from recon.errors import ReconError

HEAVY = ("torch", "pycolmap", "scipy", "cv2", "viser", "open3d", "av", "trimesh", "skimage", "tyro", "rich")


@dataclass(frozen=True)
class Nothing(CommonOptions):
    """No options of its own."""


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from recon.cli.main import main; main(['--help'])\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_an_unknown_command_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    assert "no command 'fly'" in capsys.readouterr().err
    assert main([]) == 2


def test_an_unknown_option_is_bad_input() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--fast"])
    assert stop.value.code == 2


def test_an_error_of_the_user_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(options: object, progress: object) -> Outcome:
        raise ReconError("reading [x]", "it is [bold]empty", "a picture", "choose another")

    assert execute(fails, Nothing(json=True)) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["fix"] == "choose another"
    assert "Traceback" not in printed.err
    assert "[bold]empty" in printed.err


def test_a_stop_by_the_user_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(options: object, progress: object) -> Outcome:
        raise KeyboardInterrupt

    assert execute(stopped, Nothing()) == 130
    assert "continue" in capsys.readouterr().err


def test_a_doubtful_result_exits_with_three(capsys: pytest.CaptureFixture[str]) -> None:
    def doubtful(options: object, progress: object) -> Outcome:
        return Outcome(report={"posed": 3}, rows=[("photos", "3 of 9")], attention=["most photos have no pose"])

    assert execute(doubtful, Nothing(json=True)) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"posed": 3, "attention": ["most photos have no pose"]}
    assert "most photos" in printed.err
    assert execute(doubtful, Nothing()) == 3
    assert "3 of 9" in capsys.readouterr().out


def test_doctor_reports_the_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert "in use of baseline" in checks["CPU kernels"]["found"]
    assert checks["pycolmap"]["ok"]


def test_doctor_tells_a_wrong_instruction_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recon.kernels.native import native

    monkeypatch.setenv("RECON_ISA", "sse9")
    native.cache_clear()
    try:
        assert main(["doctor", "--json"]) == 3
    finally:
        native.cache_clear()
    assert "sse9" in capsys.readouterr().out


def test_progress_survives_errors_and_nesting(capsys: pytest.CaptureFixture[str]) -> None:
    from recon.cli.console import TerminalProgress

    progress = TerminalProgress()
    with pytest.raises(RuntimeError), progress.stage("outer", 3, "photos") as outer:
        outer.advance(1, "note")
        with progress.stage("inner") as inner:
            inner.set_total(2)
            inner.advance()
        raise RuntimeError
    progress.log("still here [x]")
    assert "still here [x]" in capsys.readouterr().err


def test_numbers_are_said_as_people_say_them(tmp_path: Path) -> None:
    assert [duration(s) for s in (4.21, 185, 3725)] == ["4.2 s", "3 min 05 s", "1 h 02 min"]
    assert [size(n) for n in (12, 1500, 2_500_000, 3_000_000_000)] == ["12 B", "1.5 kB", "2.5 MB", "3.00 GB"]
