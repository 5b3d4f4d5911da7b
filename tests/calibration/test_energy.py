from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.calibration.energy import energy_test

if TYPE_CHECKING:
    from numpy.typing import NDArray


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    units: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units.astype(np.float32)


def test_the_distance_is_twice_between_less_within_as_a_share_of_between() -> None:
    # Two sets of two crops: 0 and 90 degrees, 180 and 270 degrees. Within a set the distance is sqrt(2); between
    # them 2, sqrt(2), sqrt(2) and 2.
    first, second = unit(np.array([[1.0, 0], [0, 1]])), unit(np.array([[-1.0, 0], [0, -1]]))
    found = energy_test(first, np.arange(2), second, np.arange(2), seed=0)
    between = (2 + np.sqrt(2)) / 2
    assert found.inhomogeneity == pytest.approx((2 * between - 2 * np.sqrt(2)) / (2 * between))
    assert found.p_value == 1  # two units each prove nothing


def people(
    rng: np.random.Generator, count: int, crops: int, shift: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Crops of people around looks of their own, and who each shows."""
    centres = rng.normal(size=(count, 1, 8)) + shift
    noisy = centres + 0.3 * rng.normal(size=(count, crops, 8))
    return unit(noisy).reshape(-1, 8), np.repeat(np.arange(count), crops)


def test_other_people_of_the_same_kind_are_no_drift_as_often_as_is_said() -> None:
    rng = np.random.default_rng(0)
    found = [energy_test(*people(rng, 12, 6), *people(rng, 15, 3), seed=0).p_value for _ in range(60)]
    assert sum(p_value <= 0.1 for p_value in found) <= 12  # 6 of 60 to be expected; more than 12 once in 100 times


def test_people_of_another_kind_are_found() -> None:
    rng = np.random.default_rng(1)
    found = energy_test(*people(rng, 15, 4), *people(rng, 15, 4, shift=1.0), seed=0)
    assert found.p_value == 0.001  # no permutation of 999 comes near
    assert found.inhomogeneity > 0.05


def test_many_crops_of_a_few_people_are_no_evidence() -> None:
    # Each of the 4 is seen 50 times: with crops for units this would be certain.
    rng = np.random.default_rng(2)
    (first, _), (second, _) = people(rng, 4, 50), people(rng, 4, 50)
    who = np.repeat(np.arange(4), 50)
    assert energy_test(first, who, second, who, seed=0).p_value == 1
    every_crop = np.arange(200)
    assert energy_test(first, every_crop, second, every_crop, seed=0).p_value == 0.001


def test_the_numbers_of_units_mean_nothing() -> None:
    rng = np.random.default_rng(3)
    (first, who), second = people(rng, 8, 3), people(rng, 8, 3)
    assert energy_test(first, who, *second, seed=0) == energy_test(first, 7 * who - 3, *second, seed=0)
