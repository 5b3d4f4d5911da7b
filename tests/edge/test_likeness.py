from __future__ import annotations

import numpy as np
import pytest

from reidge.edge.likeness import MAX_ODDS, Likeness


def taught(same: float, different: float, *, spread: float = 0.05) -> Likeness:
    likeness = Likeness()
    rng = np.random.default_rng(0)
    for _ in range(400):
        likeness.learn(
            (same + spread * rng.normal(size=2)).astype(np.float32),
            (different + spread * rng.normal(size=4)).astype(np.float32),
        )
    return likeness


def odds(likeness: Likeness, similarity: float) -> float:
    return float(likeness.odds(np.array([[similarity]], dtype=np.float32))[0, 0])


def test_what_is_alike_depends_on_the_encoder() -> None:
    # For an encoder that sets all people far apart 0.6 is one person; for one to whom all look alike it is two.
    assert odds(taught(0.7, 0.1), 0.6) > 1
    assert odds(taught(0.95, 0.7), 0.6) < -1


def test_halfway_between_says_nothing() -> None:
    assert odds(taught(0.8, 0.4), 0.6) == pytest.approx(0, abs=0.5)


def test_one_picture_never_says_all() -> None:
    likeness = taught(0.9, 0.1, spread=0.01)
    assert (odds(likeness, 1.0), odds(likeness, -1.0)) == (MAX_ODDS, -MAX_ODDS)


def test_an_encoder_that_tells_nobody_apart_has_no_say() -> None:
    assert abs(odds(taught(0.5, 0.5), 0.6)) < 0.3
    assert odds(taught(0.3, 0.6), 0.9) == 0


def test_little_is_learnt_from_little() -> None:
    likeness = Likeness()
    before = odds(likeness, 0.9)
    likeness.learn(np.array([0.2], dtype=np.float32), np.empty(0, dtype=np.float32))
    assert 0.5 * before < odds(likeness, 0.9) < before
