"""What every way to cluster a sparse graph refuses."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from reidge.edge.errors import InputError
from reidge.train.agglomerative import average_linkage
from reidge.train.dbscan import dbscan
from reidge.train.hdbscan import hdbscan
from reidge.train.infomap import find_modules

if TYPE_CHECKING:
    from collections.abc import Callable

METHODS = [dbscan, hdbscan, average_linkage, partial(find_modules, seed=0)]
TWO = csr_matrix(np.array([[0, 0.5], [0.5, 0]], dtype=np.float32))


@pytest.mark.parametrize("method", METHODS, ids=["dbscan", "hdbscan", "average_linkage", "find_modules"])
@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (csr_matrix(np.zeros((2, 3), dtype=np.float32)), r"shape \(2, 3\)"),
        (TWO * np.float32("nan"), "not finite"),
        (TWO * np.float32("inf"), "not finite"),
        (TWO.toarray(), "type ndarray: wants a square matrix"),
    ],
)
def test_what_is_no_square_of_numbers_is_refused(method: Callable[[Any], object], graph: Any, message: str) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(InputError, match=message) as error:
        method(graph)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: dbscan(TWO, eps=float("nan")),
        lambda: dbscan(TWO, min_samples=0),
        lambda: hdbscan(TWO, min_samples=0),
        lambda: hdbscan(TWO, min_cluster_size=1),
        lambda: average_linkage(TWO, eps=float("nan")),
        lambda: average_linkage(TWO, eps=1.5),
        lambda: find_modules(-TWO, seed=0),
    ],
)
def test_settings_and_weights_that_make_no_sense_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(InputError, match=r"^got .*: wants"):
        call()
