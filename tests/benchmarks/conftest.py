"""The benchmarks are scripts in a folder of their own; their short forms are run here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
BESIDE_SECONDS = 600.0
"""For a benchmark that runs beside the tests to end, once it is waited for."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A benchmark that runs in a process of its own while other tests run."""

    process: subprocess.Popen[bytes]
    folder: Path

    def result(self) -> dict[str, Any]:
        """Wait for the end; what the benchmark wrote."""
        status = self.process.wait(BESIDE_SECONDS)
        said = (self.folder / "said").read_text(errors="replace")
        assert status == 0, said
        print(said)
        result: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return result


STARTED = pytest.StashKey[dict[str, Beside]]()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", "beside(script, *arguments): start a benchmark before the first test, and ask for its result last"
    )
    config.stash[STARTED] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that wait for a benchmark at the end."""
    items.sort(key=lambda item: item.get_closest_marker("beside") is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the benchmarks that will be asked for."""
    if session.config.option.collectonly:
        return
    for item in session.items:
        if (mark := item.get_closest_marker("beside")) is not None:
            session.config.stash[STARTED][item.nodeid] = _start(*mark.args)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what was never waited for."""
    for beside in session.config.stash[STARTED].values():
        with suppress(ProcessLookupError):  # the group: with it end the servers that it started
            os.killpg(beside.process.pid, signal.SIGKILL)
        beside.process.wait()
        shutil.rmtree(beside.folder, ignore_errors=True)


def _start(script: str, *arguments: str) -> Beside:
    folder = Path(tempfile.mkdtemp(prefix=f"{Path(script).stem}-"))
    command: list[str | Path] = [sys.executable, BENCHMARKS / script, *arguments, "--work", folder / "work"]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            [*command, "--result", folder / "result.json"],
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    return Beside(process=process, folder=folder)


@pytest.fixture
def beside(request: pytest.FixtureRequest) -> Beside:
    """The benchmark that the test's marker names."""
    return request.config.stash[STARTED][request.node.nodeid]


@pytest.fixture(scope="session")
def benchmark() -> Iterator[Callable[[str], ModuleType]]:
    """Import a benchmark by its file name, as its own script would be."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(BENCHMARKS))
    yield import_module
    patch.undo()


@pytest.fixture(scope="session")
def tiny_data(benchmark: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest simulated data set."""
    simulated = benchmark("simulated")
    root = tmp_path_factory.mktemp("simulated") / "data"
    simulated.simulate(simulated.SETTINGS["tiny"], root, jobs=1)
    return root
