"""How near the embeddings of an exported graph are to those of the trained encoder, and whether that is near enough."""

# N = crops, H, W = input height and width, D = embedding, K = neighbours

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.backends import MAX_BATCH, load_runner
from reidge.edge.bundle import Parity

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.backends.presence import Backend
    from reidge.edge.bundle import Accuracy

NEIGHBOURS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure held against its limit."""

    name: str
    found: float
    limit: float
    at_most: bool = False
    """Whether the limit is the largest that passes, rather than the least."""

    @property
    def passed(self) -> bool:
        """Whether the figure is on the right side; never true for NaN."""
        return self.found <= self.limit if self.at_most else self.found >= self.limit

    @property
    def figures(self) -> dict[str, Any]:
        """The check as JSON."""
        limit = "at_most" if self.at_most else "at_least"
        return {"name": self.name, "found": self.found, limit: self.limit, "passed": self.passed}

    def __str__(self) -> str:
        return f"{self.name} {self.found:.4f} (at {'most' if self.at_most else 'least'} {self.limit:g})"


class Gate(BaseModel, frozen=True, extra="forbid"):
    """What a graph must reach on held-out crops, and on a labelled split where there is one, to be deployed."""

    min_cosine_mean: float = Field(0.99, ge=-1, le=1)
    min_cosine_p1: float = Field(0.97, ge=-1, le=1)
    """For the first percentile of the crops."""
    min_neighbour_overlap: float = Field(0.9, ge=0, le=1)
    """Share of each crop's ten nearest neighbours that is the same as before."""
    max_map_loss: float = Field(0.005, ge=0, le=1)
    """Of the mAP of the float graph; a fraction, so 0.005 is half a point."""
    max_rank1_loss: float = Field(0.005, ge=0, le=1)

    def checks(
        self, parity: Parity, accuracy: Accuracy | None = None, reference: Accuracy | None = None
    ) -> tuple[Check, ...]:
        """Hold figures against the gate.

        Args:
            parity: Of the graph.
            accuracy: Of the graph on a labelled split.
            reference: Of the float graph on the same; the two losses are checked only where both are given.
        """
        found = [
            Check(name="mean cosine", found=parity.cosine_mean, limit=self.min_cosine_mean),
            Check(name="first percentile", found=parity.cosine_p1, limit=self.min_cosine_p1),
            Check(name="neighbour overlap", found=parity.neighbour_overlap, limit=self.min_neighbour_overlap),
        ]
        if accuracy is not None and reference is not None:
            lost = reference.mAP - accuracy.mAP, reference.rank1 - accuracy.rank1
            found += [
                Check(name="mAP loss", found=lost[0], limit=self.max_map_loss, at_most=True),
                Check(name="rank-1 loss", found=lost[1], limit=self.max_rank1_loss, at_most=True),
            ]
        return tuple(found)

    def passes(self, parity: Parity) -> bool:
        """Whether the figures that need no labels reach the gate; never true for NaN."""
        return all(check.passed for check in self.checks(parity))


FLOAT_GATE = Gate(min_cosine_mean=0.99999, min_cosine_p1=0.9999)
INT8_GATE = Gate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a graph at its gate."""

    parity: Parity
    checks: tuple[Check, ...]
    accuracy: Accuracy | None = None
    """On the labelled split; None where there is none, or where the graph fell before it came to that."""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def missed(self) -> tuple[str, ...]:
        """The checks that did not, in words."""
        return tuple(str(check) for check in self.checks if not check.passed)


def compare(reference_ND: NDArray[np.float32], found_ND: NDArray[np.float32]) -> Parity:
    """Compare unit embeddings of the same crops.

    Args:
        reference_ND: Of the trained encoder.
        found_ND: Of the exported graph; those that are not finite count as nothing alike, cosine 0.
    """
    found_ND = np.where(np.isfinite(found_ND).all(axis=1, keepdims=True), found_ND, np.float32(0))
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
