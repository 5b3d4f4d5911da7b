from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge import index as module
from reidge.edge.index import Index
from reidge.edge.nearest import Projected
from reidge.edge.records import Exemplar

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIM = 200
"""More than the dimensions of the smaller space."""


def embedding(rng: np.random.Generator) -> NDArray[np.float32]:
    found_D = rng.standard_normal(DIM, dtype=np.float32) * np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
    return np.asarray(found_D / np.linalg.norm(found_D), dtype=np.float32)


def agrees(index: Index, truth: dict[int, Exemplar]) -> bool:
    """Whether the index holds what it should, and finds each of it first."""
    assert len(index) == len(truth)
    assert set(index.exemplar_ids_M.tolist()) == set(truth)
    for row, number in enumerate(index.exemplar_ids_M.tolist()):
        found, wanted = index.exemplar(row), truth[number]
        assert (found.global_id, found.sighting_id) == (wanted.global_id, wanted.sighting_id)
        assert np.array_equal(found.embedding_D, wanted.embedding_D)
    for global_id in {exemplar.global_id for exemplar in truth.values()}:
        own = [number for number in sorted(truth) if truth[number].global_id == global_id]
        assert [int(index.exemplar_ids_M[row]) for row in index.rows_of(global_id)] == own
    if truth:
        rows_QK, found_QK = index.search(index.embeddings_MD, 1)
        assert rows_QK[:, 0].tolist() == list(range(len(index)))
        assert found_QK == pytest.approx(1.0, abs=1e-5)
    return True


@pytest.mark.parametrize("many", [40, 10**9])
def test_whatever_comes_and_goes_the_index_holds_what_it_should(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # With few as with many: rows that move when others are dropped are where indexes go wrong.
    monkeypatch.setattr(module, "MANY", many)
    rng, index, truth = np.random.default_rng(0), Index(DIM), dict[int, Exemplar]()
    for number in range(1, 1001):
        change = rng.random()
        if change < 0.6 or not truth:
            exemplar = Exemplar(
                exemplar_id=number,
                global_id=int(rng.integers(1, 60)),
                captured_at=0.0,
                embedding_D=embedding(rng),
                sighting_id=int(rng.integers(0, 30)) or None,
            )
            index.add(exemplar)
            truth[number] = exemplar
        else:
            row = int(rng.integers(len(index)))
            gone = int(index.exemplar_ids_M[row])
            if change < 0.8:
                assert index.drop(row) == gone
                del truth[gone]
            else:
                whose = int(rng.integers(1, 60))
                assert index.move(row, whose) == gone
                old = truth[gone]
                truth[gone] = Exemplar(
                    exemplar_id=gone,
                    global_id=whose,
                    captured_at=0.0,
                    embedding_D=old.embedding_D,
                    sighting_id=old.sighting_id,
                )
        if number % 100 == 0:
            assert agrees(index, truth)
    assert isinstance(index._nearest, Projected) == (many == 40)
    while len(index):
        del truth[index.drop(0)]
    assert agrees(index, truth)


def test_nothing_of_a_dropped_embedding_stays_in_memory() -> None:
    index, rng = Index(DIM), np.random.default_rng(0)
    for number in (1, 2, 3):
        index.add(Exemplar(exemplar_id=number, global_id=1, captured_at=0.0, embedding_D=embedding(rng)))
    gone_D = index.exemplar(0).embedding_D
    index.drop(0)
    assert not (index._embeddings == gone_D).all(axis=1).any()
    assert not index._embeddings[2].any()


def test_similarity_to_an_identity_is_the_mean_over_its_nearest() -> None:
    index = Index(2)
    for number, (global_id, angle) in enumerate([(1, 0), (1, 60), (1, 180), (2, 90)], 1):
        direction_D = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))], dtype=np.float32)
        index.add(Exemplar(exemplar_id=number, global_id=global_id, captured_at=0.0, embedding_D=direction_D))
    query_D = np.array([1, 0], dtype=np.float32)
    assert index.similarities(query_D, [1, 2], 2) == pytest.approx([(1.0 + 0.5) / 2, 0.0], abs=1e-6)
    assert index.similarities(query_D, [2, 1], 9) == pytest.approx([0.0, (1.0 + 0.5 - 1.0) / 3], abs=1e-6)
    assert index.similarities(query_D, [], 2) == []


def test_the_best_come_first_for_each_query() -> None:
    index = Index(2)
    none = index.search(np.eye(2, dtype=np.float32), 5)
    assert [found.shape for found in none] == [(2, 0), (2, 0)]
    for number, angle in enumerate([50, 10, 80], 1):
        direction_D = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))], dtype=np.float32)
        index.add(Exemplar(exemplar_id=number, global_id=number, captured_at=0.0, embedding_D=direction_D))
    rows_QK, found_QK = index.search(np.eye(2, dtype=np.float32), 2)
    assert rows_QK.tolist() == [[1, 0], [2, 0]]
    assert found_QK == pytest.approx(np.cos(np.radians([[10, 50], [10, 40]])), abs=1e-6)
