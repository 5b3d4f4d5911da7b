"""Which of very many exemplars are most like a query.

All are compared in a space of fewer dimensions, the principal components, and the best of these in full by whoever
asks: products of small vectors are what a processor does fastest, and the first components hold most of what two
embeddings have in common. So what may be missed is a row that is not among the best here; the answers themselves have
exact numbers.
"""

# M = rows, Q = queries, K = proposed, B = blocks of rows, R = rows of a block, D = embedding, P = projected

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROJECTED = 128
"""Dimensions of the smaller space; smaller embeddings are compared in full."""
SAMPLE = 16_384
"""Rows that the principal components are taken from."""
LEAST_LENGTH = 0.25
"""Of a projection; of a shorter one its direction says little."""
PROPOSED = 512
"""Rows at least that are compared in full after a search among many..."""
PROPOSED_SHARE = 500
"""... and at least one in so many: the more there are, the more come between a query and its nearest."""
BLOCK = 16
"""Rows whose largest similarity is looked at first."""


class Projected:
    """The first principal components of all rows, side by side.

    The components are those of the second moment, not of the covariance: products are to be kept, not distances from
    the mean. Projections have unit length: what a long and a short one have in common in the first components says
    more of the rest as a cosine than as a product.

    Args:
        embeddings_MD: All rows, from which the components are taken.
        room: Rows to make room for.
    """

    def __init__(self, embeddings_MD: NDArray[np.float32], room: int) -> None:
        self.basis_DP = principal_components(embeddings_MD)
        self._projected = np.zeros((room, self.basis_DP.shape[1]), dtype=np.float32)
        self.put(0, embeddings_MD)

    def resize(self, room: int) -> None:
        """Make room for so many rows."""
        grown = np.zeros((room, self._projected.shape[1]), dtype=np.float32)
        grown[: len(self._projected)] = self._projected
        self._projected = grown

    def put(self, start: int, embeddings_MD: NDArray[np.float32]) -> None:
        """Set rows from `start` on."""
        projected_MP = embeddings_MD @ self.basis_DP
        projected_MP /= np.maximum(np.linalg.norm(projected_MP, axis=1, keepdims=True), LEAST_LENGTH)
        self._projected[start : start + len(embeddings_MD)] = projected_MP

    def replace(self, row: int, last: int) -> None:
        """Drop a row: the last one takes its place."""
        self._projected[row] = self._projected[last]
        self._projected[last] = 0

    def propose(self, queries_QD: NDArray[np.float32], rows: int, count: int) -> NDArray[np.intp]:
        """Of the first `rows` rows, `(Q, K)` most alike in the smaller space."""
        queries_QP = queries_QD @ self.basis_DP
        # Rows first: OpenBLAS takes half as long for a tall product as for the same one lying down.
        return largest_of_each(self._projected[:rows] @ queries_QP.T, max(count, PROPOSED, rows // PROPOSED_SHARE))


def principal_components(embeddings_MD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Directions `(D, P)` that hold the most of the products between embeddings, from an even sample of them."""
    sample_MD = embeddings_MD[:: max(1, len(embeddings_MD) // SAMPLE)]
    _, vectors_DD = np.linalg.eigh(sample_MD.T @ sample_MD)
    return np.ascontiguousarray(vectors_DD[:, ::-1][:, :PROJECTED])


def largest_of_each(found_MQ: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Rows `(Q, count)` of the largest numbers of each column, in no order; all rows where there are not so many.

    Every row belongs to a block of rows that lie evenly over all. Whatever is among the `count` largest is in one of
    the `count` blocks with the largest maxima, so only these are looked through.
    """
    rows, queries = found_MQ.shape
    blocks = rows // BLOCK
    if blocks <= count:
        return _largest(found_MQ.T, count)
    # A block is a column of this view: maxima over its first axis are taken of whole rows at once.
    found_RBQ = found_MQ[: blocks * BLOCK].reshape(BLOCK, blocks, queries)
    best_QB = _largest(found_RBQ.max(axis=0).T, count)
    near_QK = found_RBQ[:, best_QB, np.arange(queries)[:, None]].swapaxes(0, 1).reshape(queries, BLOCK * count)
    rest_QK = found_MQ[blocks * BLOCK :].T
    places_QK = _largest(np.concatenate([near_QK, rest_QK], axis=1), count)
    blocks_QK = np.take_along_axis(best_QB, places_QK % count, axis=1)
    in_blocks_QK, in_rest_QK = places_QK // count * blocks + blocks_QK, places_QK + BLOCK * (blocks - count)
    return np.asarray(np.where(places_QK < BLOCK * count, in_blocks_QK, in_rest_QK), dtype=np.intp)


def _largest(values_QM: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    if count >= values_QM.shape[1]:
        return np.broadcast_to(np.arange(values_QM.shape[1]), values_QM.shape)
    return np.argpartition(np.ascontiguousarray(values_QM), -count, axis=1)[:, -count:]
