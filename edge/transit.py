"""What times and places say about who is who: people who leave one view arrive in another after a usual while.

Who begins to be seen was somewhere before. For every camera and gap of time (a cell) it is counted how often a person
who was recognised surely had come from there, and how many people there were who could have. The ratio of the two,
held against picking anybody, is the evidence of a cell; it needs no map of the site, and settles by itself to nothing
where times say nothing. Shares of few counts are drawn towards those of all cameras together, and these towards no
evidence (Dirichlet priors).
"""

# P, Q = passages before and after, K = pairs of them; C = cameras, B = bins of gaps; 4 = x1, y1, x2, y2

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

BIN_ENDS = np.array([1, 2, 3, 4, 6, 8, 11, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 3600], dtype=np.float64)
"""Seconds; the last bin is everything longer."""
LONG, NEAR = len(BIN_ENDS), len(BIN_ENDS) + 1
"""Bins of their own: longer ago than the last end, wherever it was; and lost and found at one place."""
BINS = len(BIN_ENDS) + 2
NEAR_SECONDS = 3.0
"""A track that begins so soon after another, close to where that one was lost, may well go on from it."""
NEAR_SHIFT, NEAR_SPEED = 0.5, 1.0
"""Close: so many heights of the person, and so many more for every second."""
FAR_SHIFT, FAR_SPEED = 1.5, 2.5
"""Nobody gets farther than this in one view while out of sight for less than `NEAR_SECONDS`."""
POOL_STRENGTH, PAIR_STRENGTH = 20.0, 30.0
"""Counts that a prior is worth: of no evidence against all cameras together, and of these against a pair of them."""
RIVAL_STRENGTH = 5.0
"""Arrivals that the prior of the number of rivals is worth."""
NEAR_PRIOR = 2.0, 0.02
"""Before anything is learned: counts of people found again where they were lost, and rivals there per arrival."""
LIMITS_STRENGTH = 10.0
"""Counts that walking times given by the user are worth."""
MOST_EVIDENCE, MOST_AGAINST = 4.0, 0.3
"""Natural logarithms. Times may speak loudly for somebody, but hardly against: who was away for long may come back."""


class Passage(Protocol):
    """One person passing one view."""

    camid: str
    started_at: float
    last_seen: float
    first_box: tuple[float, float, float, float]
    box: tuple[float, float, float, float]


class Transits:
    """Learns where people come from and after how long, and says what that speaks for.

    Args:
        limits: Least and most seconds of the way between two cameras, where the user gave them, in either order.
    """

    def __init__(self, limits: Mapping[tuple[str, str], tuple[float, float]] | None = None) -> None:
        self.limits = dict(limits or {})
        self._cameras: dict[str, int] = {}
        self._chosen_CCB = np.zeros((0, 0, BINS))
        self._rivals_CCB = np.zeros((0, 0, BINS))
        self._arrivals_C = np.zeros(0)
        self._candidates = 0.0
        self._evidence_CCB: NDArray[np.float64] | None = None

    def limit(self, limits: Mapping[tuple[str, str], tuple[float, float]]) -> None:
        """Go on with other walking times."""
        self.limits = dict(limits)
        self._evidence_CCB = None

    def evidence(self, before: Sequence[Passage], after: Sequence[Passage]) -> NDArray[np.float64]:
        """How much more likely than chance each passage came directly before each other one.

        Returns:
            Natural logarithms of the ratios, `(P, Q)`; 0 where the two overlap in time.
        """
        if not before or not after:
            return np.zeros((len(before), len(after)))
        from_P, to_Q = self._index(before), self._index(after)
        gap_PQ = _gaps(before, after)
        bins_PQ = _bins(before, after, gap_PQ)
        found_PQ = self._table()[from_P[:, None], to_Q[None], bins_PQ]
        return np.where(gap_PQ >= 0, found_PQ, 0.0)

    def evidence_long(self, after: Sequence[Passage]) -> NDArray[np.float64]:
        """The same for somebody who was last seen longer ago than is remembered, `(Q,)`."""
        to_Q = self._index(after)
        return np.asarray(self._table()[to_Q, to_Q, LONG])

    def impossible(self, before: Sequence[Passage], after: Sequence[Passage]) -> NDArray[np.bool_]:
        """Tell who cannot have come from where in that time, `(P, Q)`; nothing is said of those that overlap."""
        gap_PQ = _gaps(before, after)
        soon, shift, gap = _at_once(before, after, gap_PQ)
        out_of_reach_PQ = np.zeros(gap_PQ.shape, dtype=bool)
        out_of_reach_PQ[soon] = shift > FAR_SHIFT + FAR_SPEED * gap
        least_PQ = (
            np.array([[self._limits(p.camid, q.camid)[0] for q in after] for p in before]) if self.limits else 0.0
        )
        return np.asarray((gap_PQ >= 0) & (out_of_reach_PQ | (gap_PQ < least_PQ)))

    def learn(self, after: Passage, rivals: Sequence[Passage], chosen: Iterable[int], *, others: int = 0) -> None:
        """Take in one arrival.

        Args:
            after: Who arrived.
            rivals: The last passage of everybody who could have been it.
            chosen: The row of who it surely was; none when that is not known. -1 for somebody out of memory.
            others: People who are known and out of memory.
        """
        to = int(self._index([after])[0])
        from_P = self._index(rivals)
        bins_P = _bins(rivals, [after], _gaps(rivals, [after]))[:, 0] if rivals else np.zeros(0, dtype=np.intp)
        np.add.at(self._rivals_CCB[:, to], (from_P, bins_P), 1.0)
        self._rivals_CCB[to, to, LONG] += others
        self._arrivals_C[to] += 1
        self._candidates += len(rivals) + others
        for row in chosen:
            cell = (to, to, LONG) if row < 0 else (from_P[row], to, bins_P[row])
            self._chosen_CCB[cell] += 1
        self._evidence_CCB = None

    def _limits(self, one: str, other: str) -> tuple[float, float]:
        return self.limits.get((one, other)) or self.limits.get((other, one)) or (0.0, np.inf)

    def _index(self, passages: Sequence[Passage]) -> NDArray[np.intp]:
        """Rows of cameras; new ones get one."""
        for passage in passages:
            if passage.camid not in self._cameras:
                self._cameras[passage.camid] = len(self._cameras)
                self._chosen_CCB, self._rivals_CCB = (
                    np.pad(counts, ((0, 1), (0, 1), (0, 0))) for counts in (self._chosen_CCB, self._rivals_CCB)
                )
                self._arrivals_C = np.pad(self._arrivals_C, (0, 1))
                self._evidence_CCB = None
        return np.array([self._cameras[passage.camid] for passage in passages], dtype=np.intp)

    def _table(self) -> NDArray[np.float64]:
        """Evidence of every cell; made anew when something was learned."""
        if self._evidence_CCB is None:
            self._evidence_CCB = self._weigh()
        return self._evidence_CCB

    def _weigh(self) -> NDArray[np.float64]:
        """Turn the counts into logarithms of ratios."""
        cameras = len(self._cameras)
        alike_CC1 = np.eye(cameras, dtype=bool)[..., None]
        arrivals = self._arrivals_C.sum()
        crowd = max((self._candidates + 10.0 * RIVAL_STRENGTH) / (arrivals + RIVAL_STRENGTH), 1.0)
        ratio_CCB, rivals_CCB = np.ones_like(self._chosen_CCB), np.zeros_like(self._chosen_CCB)
        chosen = self._chosen_CCB.sum() + NEAR_PRIOR[0]
        for alike in (False, True):  # ways between cameras, and returns to the same one
            kind_CC = (alike_CC1 == alike)[..., 0]
            if not kind_CC.any():
                continue
            pool_B, came_B = self._rivals_CCB[kind_CC].sum(axis=0), self._chosen_CCB[kind_CC].sum(axis=0)
            if alike:
                pool_B[NEAR] += NEAR_PRIOR[1] * RIVAL_STRENGTH
                came_B[NEAR] += NEAR_PRIOR[0]
            usual_B = (pool_B + 1e-3) / (arrivals + RIVAL_STRENGTH)
            share_B = (came_B + POOL_STRENGTH * usual_B / crowd) / (chosen + POOL_STRENGTH)
            ratio_CCB[kind_CC] = share_B * crowd / usual_B
            froms = 1 if alike else max(cameras - 1, 1)
            rivals_CCB[kind_CC] = usual_B / froms
        rivals_CCB = (self._rivals_CCB + RIVAL_STRENGTH * rivals_CCB) / (self._arrivals_C + RIVAL_STRENGTH)[
            None, :, None
        ]
        prior_CCB = ratio_CCB * rivals_CCB / crowd
        prior_CCB /= np.maximum(prior_CCB.sum(axis=(0, 2), keepdims=True), 1.0)
        counts_CCB = self._chosen_CCB + self._given(prior_CCB)
        share_CCB = (counts_CCB + PAIR_STRENGTH * prior_CCB) / (counts_CCB.sum(axis=(0, 2)) + PAIR_STRENGTH)[
            None, :, None
        ]
        evidence_CCB = np.log(share_CCB * crowd / rivals_CCB)
        return np.asarray(np.clip(evidence_CCB, -MOST_AGAINST, MOST_EVIDENCE))

    def _given(self, prior_CCB: NDArray[np.float64]) -> NDArray[np.float64]:
        """Counts that stand for the walking times given by the user: evenly over the seconds between them."""
        counts_CCB = np.zeros_like(prior_CCB)
        ends_B = np.append(BIN_ENDS, BIN_ENDS[-1])
        starts_B = np.append(0.0, BIN_ENDS)
        for a, row in self._cameras.items():
            for b, column in self._cameras.items():
                least, most = self._limits(a, b)
                if a != b and np.isfinite(most):
                    inside_B = np.clip(np.minimum(ends_B, most) - np.maximum(starts_B, least), 0.0, None)
                    counts_CCB[row, column, : LONG + 1] = LIMITS_STRENGTH * inside_B / max(inside_B.sum(), 1e-9)
        return counts_CCB


def _gaps(before: Sequence[Passage], after: Sequence[Passage]) -> NDArray[np.float64]:
    ended_P = np.array([p.last_seen for p in before], dtype=np.float64)
    started_Q = np.array([q.started_at for q in after], dtype=np.float64)
    return np.asarray(started_Q[None] - ended_P[:, None])


def _bins(before: Sequence[Passage], after: Sequence[Passage], gap_PQ: NDArray[np.float64]) -> NDArray[np.intp]:
    bins_PQ = np.searchsorted(BIN_ENDS, gap_PQ, side="right")
    soon, shift, gap = _at_once(before, after, gap_PQ)
    bins_PQ[soon] = np.where(shift <= NEAR_SHIFT + NEAR_SPEED * gap, NEAR, bins_PQ[soon])
    return bins_PQ


def _at_once(
    before: Sequence[Passage], after: Sequence[Passage], gap_PQ: NDArray[np.float64]
) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], NDArray[np.float64], NDArray[np.float64]]:
    """Find who began in a view where others had just ended.

    Returns:
        Rows and columns of these pairs; from where one was last seen to where the other began, in heights of the
        person, NaN where that is not known; seconds in between.
    """
    rows, columns = np.nonzero((gap_PQ >= 0) & (gap_PQ < NEAR_SECONDS))
    same = np.array(
        [before[p].camid == after[q].camid for p, q in zip(rows.tolist(), columns.tolist(), strict=True)], dtype=bool
    )
    rows, columns = rows[same], columns[same]
    last_K4 = np.array([before[p].box for p in rows.tolist()], dtype=np.float64).reshape(-1, 4)
    first_K4 = np.array([after[q].first_box for q in columns.tolist()], dtype=np.float64).reshape(-1, 4)
    offset_K2 = (last_K4[:, :2] + last_K4[:, 2:] - first_K4[:, :2] - first_K4[:, 2:]) / 2
    last_K, first_K = (boxes[:, 3] - boxes[:, 1] for boxes in (last_K4, first_K4))
    height_K = np.where((last_K > 0) & (first_K > 0), np.maximum(last_K, first_K), np.nan)
    return (rows, columns), np.hypot(offset_K2[:, 0], offset_K2[:, 1]) / height_K, gap_PQ[rows, columns]
