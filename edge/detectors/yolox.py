"""People found by any YOLOX network in ONNX."""

# A = anchors over all strides; C = 4 box numbers, objectness, classes; N = boxes; 4 = x1, y1, x2, y2

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from reidge.edge.detectors.foreign import ForeignConfig, ForeignDetector, shapes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reidge.edge.detectors.network import Found

STRIDES = (8, 16, 32)


class YoloxConfig(ForeignConfig, frozen=True, extra="forbid"):
    """Settings of a YOLOX detector; its score is objectness times class score."""

    kind: Literal["yolox"] = "yolox"


class YoloxDetector(ForeignDetector[YoloxConfig]):
    """One output `(N, A, 5 + classes)`: boxes relative to their cells, scores through the sigmoid."""

    what: ClassVar[str] = "a YOLOX"

    def _examine(self, found: Found) -> None:
        self._grid_A2, self._stride_A1 = make_grid(self.size)
        raw = next(iter(found.values()))
        rows, columns = len(self._grid_A2), 6 + self.config.person_class
        if len(found) != 1 or raw.ndim != 3 or raw.shape[1] != rows or raw.shape[2] < columns:
            raise self._refusal(
                f"is not a YOLOX: it gives {shapes_of(found)}, expected is one output of {rows} rows of at least "
                f"{columns}",
                "Export it with raw outputs (no decode in the graph).",
            )

    def _decode(self, found: Found) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        (raw_1AC,) = found.values()
        raw_AC = raw_1AC[0]
        scores_A = raw_AC[:, 4] * raw_AC[:, 5 + self.config.person_class]
        keep_A = scores_A >= self.config.min_score
        raw_NC, stride_N1 = raw_AC[keep_A], self._stride_A1[keep_A]
        centres_N2 = (raw_NC[:, :2] + self._grid_A2[keep_A]) * stride_N1
        with np.errstate(over="ignore"):  # an endless box ends at the frame
            sides_N2 = np.exp(raw_NC[:, 2:4]) * stride_N1
        return np.concatenate([centres_N2 - sides_N2 / 2, centres_N2 + sides_N2 / 2], axis=1), scores_A[keep_A]


def make_grid(
    size: tuple[int, int], strides: tuple[int, ...] = STRIDES
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row of each anchor's cell, `(A, 2)`, and its stride, `(A, 1)`, stride by stride, row by row."""
    cells, scales = [], []
    for stride in strides:
        rows, columns = np.mgrid[: -(-size[0] // stride), : -(-size[1] // stride)]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        scales.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(scales).astype(np.float32)
