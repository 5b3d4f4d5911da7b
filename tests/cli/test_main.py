from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import version

import pytest

from reidge.cli.main import STAGES, build_parser, explain, main
from reidge.edge.errors import InputError, ReidgeError


def run_reidge(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "reidge.cli.main", *arguments], capture_output=True, text=True)


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr("reidge.cli.doctor.run", run)


def test_no_stage_is_wrong_usage_and_names_the_stages() -> None:
    done = run_reidge()
    assert done.returncode == 2
    assert "STAGE" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_stage_is_wrong_usage_and_the_known_ones_are_named() -> None:
    done = run_reidge("fly")
    assert done.returncode == 2
    assert "'fly'" in done.stderr
    assert all(stage in done.stderr for stage in STAGES)


def test_version_is_the_installed_one() -> None:
    assert run_reidge("--version").stdout == f"reidge {version('reidge')}\n"


def test_the_overview_has_a_line_for_each_stage() -> None:
    overview = run_reidge("--help").stdout
    assert all(stage in overview for stage in STAGES)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("the stream ended"), "the stream ended"),
        (InputError("give\nanother"), "give another"),
    ],
)
def test_failures_are_told_without_names_and_numbers_of_the_system(error: Exception, told: str) -> None:
    assert explain(error) == told


@pytest.mark.parametrize("stage", STAGES)
def test_each_option_is_explained_and_shows_its_default(stage: str) -> None:
    stages = next(act for act in build_parser(stage)._actions if isinstance(act, argparse._SubParsersAction))
    parser = stages.choices[stage]
    explained = " ".join(parser.format_help().split())
    for action in parser._actions:
        assert action.help, f"{stage} {action.dest}"
        if action.option_strings and action.default not in (None, argparse.SUPPRESS):
            assert "%(default)" in action.help or f"(default: {action.default})" in explained, f"{stage} {action.dest}"


@pytest.mark.parametrize("stage", STAGES)
def test_an_unknown_option_is_wrong_usage(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([stage, "--no-such-option"])
    assert end.value.code == 2
    assert "usage: reidge" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("no such crops.\nMake them."), 2, "reidge doctor: no such crops. Make them.\n"),
        (ReidgeError("the camera left."), 1, "reidge doctor: the camera left.\n"),
        (
            ConnectionRefusedError(111, "Refused", "rtsp://viewer:secret@host/stream"),
            1,
            "reidge doctor: rtsp://host/stream: Refused. Check the path, its permissions and the free space.\n",
        ),
        (
            PermissionError(13, "Permission denied", "out"),
            1,
            "reidge doctor: out: Permission denied. Check the path, its permissions and the free space.\n",
        ),
        (
            ModuleNotFoundError("No module named 'lap'", name="lap"),
            1,
            "reidge doctor: the Python package lap is missing. See what to install with: reidge doctor\n",
        ),
        (KeyboardInterrupt(), 130, "reidge doctor: interrupted\n"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_status(
    error: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, error)
    assert main(["doctor"]) == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    "error", [AssertionError("our mistake"), ModuleNotFoundError("No module named 'reidge.x'", name="reidge.x")]
)
def test_our_own_mistakes_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, error)
    with pytest.raises(type(error)):
        main(["doctor"])


def test_a_missing_input_is_one_line_with_its_path_and_exit_status_2() -> None:
    done = run_reidge("run", "nowhere/site.yaml")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nowhere/site.yaml" in done.stderr


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_run_of_no_time_is_wrong_usage(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "site.yaml", "--seconds", seconds]) == 2
    assert capsys.readouterr().err == f"reidge run: --seconds is {seconds}. Give more than 0.\n"
