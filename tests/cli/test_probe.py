from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from reidge.cli.probe import describe, probe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable module `flaky`, to be written by the test."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "flaky.py"


def test_a_package_that_is_not_there_is_missing() -> None:
    assert probe("surely_no_such_package") == {"missing": True}


def test_a_package_that_imports_has_its_version(package: Path) -> None:
    package.write_text("__version__ = '1.2'")
    assert probe("flaky") == {"version": "1.2"}


def test_a_package_that_does_not_say_its_version_has_that_of_its_distribution() -> None:
    assert probe("paho") == {"version": version("paho-mqtt")}


def test_what_a_package_prints_at_import_does_not_matter(package: Path) -> None:
    package.write_text("print('welcome {to flaky}')\n__version__ = '1.2'")
    assert probe("flaky") == {"version": "1.2"}


def test_a_failing_import_is_a_finding_in_one_line(package: Path) -> None:
    package.write_text("raise ImportError('libflaky.so.1: cannot open\\nshared object file')")
    assert probe("flaky") == {"error": "ImportError: libflaky.so.1: cannot open shared object file"}


def test_an_import_that_ends_the_process_is_a_finding(package: Path) -> None:
    # An illegal instruction is how a wheel built for a newer processor shows itself.
    package.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)")
    assert probe("flaky") == {"error": "importing it ends the process: SIGILL"}


def test_an_import_that_exits_is_a_finding(package: Path) -> None:
    package.write_text("import os\nos._exit(3)")
    assert probe("flaky") == {"error": "importing it fails: exit status 3"}


def test_a_package_that_imports_and_then_fails_to_answer_keeps_its_version() -> None:
    # Torch without its CUDA part: the import works, the question about GPUs does not.
    from reidge.cli import probe as module

    facts = describe("json")
    assert facts["version"] == getattr(json, "__version__", "unknown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module.DETAILS, "json", module.describe_torch)
        facts = describe("json")
    assert facts["problem"].startswith("AttributeError: ")
    assert "version" in facts


def test_the_decoders_of_camera_streams_are_found() -> None:
    assert probe("av")["decoders"] == ["h264", "hevc", "mjpeg"]
