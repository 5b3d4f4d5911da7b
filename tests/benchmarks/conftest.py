"""The benchmarks are scripts in a folder of their own; their short forms are run here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


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
