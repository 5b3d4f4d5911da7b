"""How far the embeddings of a site have moved since its calibration."""

# N = crops, A, B = crops then and now, T = tracklets, D = embedding

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reidge.calibration.energy import MIN_UNITS, energy_test
from reidge.calibration.pairs import unit_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from reidge.calibration.snapshot import Snapshot

NOVEL_QUANTILE = 0.05
"""A crop is novel when it is less similar to the nearest calibration crop than all but this share of them are to each
other, crops of one tracklet left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """What `compare_appearance` found."""

    inhomogeneity: float
    """Energy distance as a share of the mean distance between then and now; about 0 where nothing has changed."""
    p_value: float
    """Chance of such a distance where nothing has changed."""
    mean_cosine: float
    """Between the mean embeddings then and now."""
    spread_then: float
    """1 - squared length of the mean embedding: 0 where all crops look the same, 1 where they share nothing."""
    spread_now: float
    nearest_then: float
    """Median similarity of a calibration crop to the nearest one of another tracklet."""
    nearest_now: float
    """Median similarity of a crop of today to the nearest calibration crop."""
    novel_share: float
    """Of today's crops that are novel; `NOVEL_QUANTILE` where nothing has changed."""
    novel_by_camera: Mapping[str, float]


def compare_appearance(then: Snapshot, now: Snapshot, *, min_similarity: float | None, seed: int) -> Appearance:
    """Compare two snapshots taken with the same weights.

    Args:
        then: Of the calibration.
        now: Of today.
        min_similarity: From here on two tracklets are taken for one person, who counts once; None lets each count.
        seed: Of the permutations.
    """
    test = energy_test(
        then.embeddings_ND,
        people_of(then, min_similarity),
        now.embeddings_ND,
        people_of(now, min_similarity),
        seed=seed,
    )
    among_AA = then.embeddings_ND @ then.embeddings_ND.T
    among_AA[np.equal.outer(then.tracklets_N, then.tracklets_N)] = -1
    nearest_A = among_AA.max(axis=1)
    nearest_B = (now.embeddings_ND @ then.embeddings_ND.T).max(axis=1)
    novel_B = nearest_B < np.quantile(nearest_A, NOVEL_QUANTILE)
    return Appearance(
        inhomogeneity=test.inhomogeneity,
        p_value=test.p_value,
        mean_cosine=float(unit_mean(then.embeddings_ND) @ unit_mean(now.embeddings_ND)),
        spread_then=spread_of(then.embeddings_ND),
        spread_now=spread_of(now.embeddings_ND),
        nearest_then=float(np.median(nearest_A)),
        nearest_now=float(np.median(nearest_B)),
        novel_share=float(novel_B.mean()),
        novel_by_camera={str(camid): float(novel_B[now.camids_N == camid].mean()) for camid in np.unique(now.camids_N)},
    )


def people_of(snapshot: Snapshot, min_similarity: float | None) -> NDArray[np.int64]:
    """The person of each crop, as far as tracklets that match can tell.

    Somebody who passes ten times is in ten tracklets, and would make chance look like evidence. In order of number,
    each tracklet joins the first one that it matches and that joined no other. Where that leaves hardly anybody, the
    threshold has lost its meaning, and each tracklet counts.
    """
    tracklets_T = np.unique(snapshot.tracklets_N)
    if min_similarity is None:
        return snapshot.tracklets_N
    means_TD = np.stack([unit_mean(snapshot.embeddings_ND[snapshot.tracklets_N == number]) for number in tracklets_T])
    matches_TT = means_TD @ means_TD.T >= min_similarity
    person_of: dict[int, int] = {}
    leaders: list[int] = []
    for place, number in enumerate(tracklets_T.tolist()):
        joined = next((leader for leader in leaders if matches_TT[place, leader]), None)
        if joined is None:
            leaders.append(place)
        person_of[number] = place if joined is None else joined
    if len(leaders) < MIN_UNITS:
        return snapshot.tracklets_N
    return np.array([person_of[number] for number in snapshot.tracklets_N.tolist()], dtype=np.int64)


def spread_of(embeddings_ND: NDArray[np.float32]) -> float:
    """1 - squared length of the mean of unit vectors."""
    return 1 - float(np.square(embeddings_ND.mean(axis=0, dtype=np.float64)).sum())
