"""People found by a NanoDet or NanoDet-Plus network in ONNX.

Each side of a box is a distribution over whole cells (generalised focal loss, Li et al. 2020, equation 6): the distance
from the cell to that side is its mean. Matched is the reference implementation's head and export
(RangiLyu/nanodet): scores have gone through the sigmoid, distributions not through the softmax; NanoDet-Plus measures
from the upper left corner of a cell, its predecessor from the middle.
"""

# A = cells over all strides; C = classes, then 4 distributions; K = bins of one; N = boxes; 4 = x1, y1, x2, y2

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from reidge.edge.detectors.foreign import ForeignConfig, ForeignDetector, shapes_of
from reidge.edge.detectors.yolox import make_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reidge.edge.detectors.network import Found

LAYOUTS: tuple[tuple[tuple[int, ...], float], ...] = (((8, 16, 32, 64), 0.0), ((8, 16, 32), 0.5))
"""Strides, and where in a cell distances are measured from: NanoDet-Plus, NanoDet."""


class NanodetConfig(ForeignConfig, frozen=True, extra="forbid"):
    """Settings of a NanoDet detector."""

    kind: Literal["nanodet"] = "nanodet"
    bins: int = Field(8, ge=2)
    """Of each distribution: `reg_max` + 1."""
    resize: Literal["letterbox", "stretch"] = "stretch"
    mean: tuple[float, float, float] = (103.53, 116.28, 123.675)
    std: tuple[float, float, float] = (57.375, 57.12, 58.395)


class NanodetDetector(ForeignDetector[NanodetConfig]):
    """One output `(N, A, classes + 4 * bins)`."""

    what: ClassVar[str] = "a NanoDet"

    def _examine(self, found: Found) -> None:
        raw = next(iter(found.values()))
        least = self.config.person_class + 1 + 4 * self.config.bins
        grids = [(*make_grid(self.size, strides), offset) for strides, offset in LAYOUTS]
        rows = [len(grid_A2) for grid_A2, _, _ in grids]
        if len(found) != 1 or raw.ndim != 3 or raw.shape[1] not in rows or raw.shape[2] < least:
            raise self._refusal(
                f"is not a NanoDet: it gives {shapes_of(found)}, expected is one output of "
                f"{' or '.join(map(str, rows))} rows of at least {least}",
                "Export it with the reference implementation's tools/export_onnx.py, and set bins to its reg_max + 1.",
            )
        grid_A2, self._stride_A1, offset = grids[rows.index(raw.shape[1])]
        self._origin_A2 = (grid_A2 + np.float32(offset)) * self._stride_A1

    def _decode(self, found: Found) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        (raw_1AC,) = found.values()
        raw_AC = raw_1AC[0]
        scores_A = raw_AC[:, self.config.person_class]
        keep_A = scores_A >= self.config.min_score
        bins = self.config.bins
        logits_N4K = raw_AC[keep_A, -4 * bins :].reshape(-1, 4, bins)
        weights_N4K = np.exp(logits_N4K - logits_N4K.max(axis=2, keepdims=True))
        means_N4 = weights_N4K @ np.arange(bins, dtype=np.float32) / weights_N4K.sum(axis=2)
        distances_N4 = means_N4 * self._stride_A1[keep_A]
        origin_N2 = self._origin_A2[keep_A]
        boxes_N4 = np.concatenate([origin_N2 - distances_N4[:, :2], origin_N2 + distances_N4[:, 2:]], axis=1)
        return boxes_N4, scores_A[keep_A]
