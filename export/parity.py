"""How near the embeddings of an exported graph are to those of the trained encoder."""

# N = crops, H, W = input height and width, D = embedding, K = neighbours

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.backends import MAX_BATCH, Backend, load_runner
from reidge.edge.bundle import Parity

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NEIGHBOURS = 10


class Gate(BaseModel, frozen=True, extra="forbid"):
    """What a graph must reach on held-out crops to be deployed."""

    min_cosine_mean: float = Field(0.99, ge=-1, le=1)
    min_cosine_p1: float = Field(0.97, ge=-1, le=1)
    """For the first percentile of the crops."""

    def passes(self, parity: Parity) -> bool:
        """Whether the figures reach the gate; never true for NaN."""
        return parity.cosine_mean >= self.min_cosine_mean and parity.cosine_p1 >= self.min_cosine_p1


FLOAT_GATE = Gate(min_cosine_mean=0.99999, min_cosine_p1=0.9999)
INT8_GATE = Gate()


def compare(reference_ND: NDArray[np.float32], found_ND: NDArray[np.float32]) -> Parity:
    """Compare unit embeddings of the same crops.

    Args:
        reference_ND: Of the trained encoder.
        found_ND: Of the exported graph.
    """
    cosines_N = cosines(reference_ND, found_ND)
    return Parity(
        crops=len(cosines_N),
        cosine_mean=float(cosines_N.mean()),
        cosine_p1=float(np.percentile(cosines_N, 1)),
        max_abs_diff=float(np.abs(reference_ND - found_ND).max()),
        neighbour_overlap=neighbour_overlap(reference_ND, found_ND),
    )


def cosines(reference_ND: NDArray[np.float32], found_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each pair of rows, both unit length."""
    result: NDArray[np.float64] = np.einsum("nd,nd->n", reference_ND.astype(np.float64), found_ND.astype(np.float64))
    return result


def neighbour_overlap(reference_ND: NDArray[np.float32], found_ND: NDArray[np.float32]) -> float:
    """Mean share of each crop's nearest other crops that both rankings agree on; 1 for a single crop."""
    count = min(NEIGHBOURS, len(reference_ND) - 1)
    if count == 0:
        return 1.0
    reference_NK, found_NK = nearest(reference_ND, count), nearest(found_ND, count)
    shared = [len(np.intersect1d(*rows)) for rows in zip(reference_NK, found_NK, strict=True)]
    return float(np.mean(shared)) / count


def nearest(embeddings_ND: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """`(N, K)` indices of each row's nearest other rows."""
    similarities_NN = embeddings_ND @ embeddings_ND.T
    np.fill_diagonal(similarities_NN, -np.inf)
    indices_NK: NDArray[np.int64] = np.argsort(-similarities_NN, axis=1, kind="stable")[:, :count]
    return indices_NK


def embed_with(
    path: Path, crops_NHW3: NDArray[np.uint8], *, backend: Backend, threads: int | None = None
) -> NDArray[np.float32]:
    """Embed crops with an ONNX file that is not in a bundle yet."""
    runner = load_runner(path, backend, threads=threads)
    try:
        batches = (crops_NHW3[start : start + MAX_BATCH] for start in range(0, len(crops_NHW3), MAX_BATCH))
        return np.concatenate([runner.run(batch) for batch in batches])
    finally:
        runner.close()
