"""Whether two sets of embeddings come from one distribution: the energy distance, judged by permutations.

Székely & Rizzo, "Energy statistics", Journal of Statistical Planning and Inference 2013: twice the mean distance
between the sets less the mean distances within them, 0 only where they are distributed alike.
"""

# A, B = crops of either set, U = units of both sets, R = permutations, D = embedding

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERMUTATIONS = 999
MIN_UNITS = 5
"""Of either set; with 5 each there are 252 ways to divide them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyTest:
    """How far apart two sets are."""

    inhomogeneity: float
    """Energy distance as a share of the mean distance between the sets, at most 1; about 0, also just below, where
    they are distributed alike."""
    p_value: float
    """Chance of so large a distance where both are of one distribution; 1 where there are too few units to tell."""


def energy_test(
    first_AD: NDArray[np.float32],
    first_units_A: NDArray[np.int64],
    second_BD: NDArray[np.float32],
    second_units_B: NDArray[np.int64],
    *,
    seed: int,
) -> EnergyTest:
    """Compare two sets of unit embeddings.

    Crops of one unit (a tracklet, or tracklets that match) show one person, so they are no independent evidence: units
    are what is exchanged in a permutation, each counts once however many crops it has, and pairs within a unit are
    left out.

    Args:
        first_AD: Embeddings of one set.
        first_units_A: The unit of each, any numbers.
        second_BD: Embeddings of the other set.
        second_units_B: The unit of each.
        seed: Of the permutations.
    """
    embeddings = np.concatenate([first_AD, second_BD]).astype(np.float64)
    first_units, second_units = number(first_units_A), number(second_units_B)
    first, second = int(first_units.max()) + 1, int(second_units.max()) + 1
    distances_UU = unit_distances(embeddings, np.concatenate([first_units, second_units + first]))
    is_first_U = np.arange(first + second) < first
    energy, between = energies(distances_UU, is_first_U[None])
    inhomogeneity = float(energy[0] / max(2 * between[0], 1e-12)) if min(first, second) > 1 else 0.0
    if min(first, second) < MIN_UNITS:
        return EnergyTest(inhomogeneity=inhomogeneity, p_value=1.0)
    rng = np.random.default_rng(seed)
    shuffled_RU = rng.permuted(np.tile(is_first_U, (PERMUTATIONS, 1)), axis=1)
    chance_R, _ = energies(distances_UU, shuffled_RU)
    reached = int((chance_R >= energy[0] - 1e-12).sum())
    return EnergyTest(inhomogeneity=inhomogeneity, p_value=(1 + reached) / (1 + PERMUTATIONS))


def number(units: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same units, numbered from 0 without gaps."""
    return np.unique(units, return_inverse=True)[1].reshape(-1).astype(np.int64)


def unit_distances(embeddings: NDArray[np.float64], units: NDArray[np.int64]) -> NDArray[np.float64]:
    """`(U, U)` mean Euclidean distance between the crops of two units; 0 within a unit."""
    distances = np.sqrt(np.maximum(2 - 2 * embeddings @ embeddings.T, 0))
    members = np.equal.outer(np.arange(int(units.max()) + 1), units).astype(np.float64)
    members /= members.sum(axis=1, keepdims=True)
    means_UU: NDArray[np.float64] = members @ distances @ members.T
    np.fill_diagonal(means_UU, 0)
    return means_UU


def energies(
    distances_UU: NDArray[np.float64], is_first_RU: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energy distance, and mean distance between the sets, for each way of dividing the units; `(R,)` each."""
    first_RU = is_first_RU.astype(np.float64)
    second_RU = 1 - first_RU
    firsts, seconds = float(first_RU[0].sum()), float(second_RU[0].sum())
    to_first_RU, to_second_RU = first_RU @ distances_UU, second_RU @ distances_UU
    between_R = (to_first_RU * second_RU).sum(axis=1) / (firsts * seconds)
    within_first_R = (to_first_RU * first_RU).sum(axis=1) / max(firsts * (firsts - 1), 1)
    within_second_R = (to_second_RU * second_RU).sum(axis=1) / max(seconds * (seconds - 1), 1)
    return 2 * between_R - within_first_R - within_second_R, between_R
