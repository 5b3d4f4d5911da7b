"""People found by any network in ONNX that gives boxes and scores, described in the settings."""

# N = boxes, C = classes; 4 = two corners, a corner and sides, or centre and sides

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from reidge.edge.detectors.foreign import ForeignConfig, ForeignDetector, shapes_of, sigmoid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reidge.edge.detectors.network import Found


class BoxesConfig(ForeignConfig, frozen=True, extra="forbid"):
    """Settings of a detector whose outputs are named here."""

    kind: Literal["boxes"] = "boxes"
    boxes: str = Field("boxes", min_length=1)
    """Output with the boxes, `(1, N, 4)` or `(N, 4)`; further columns are left out."""
    scores: str = Field("scores", min_length=1)
    """Output with the scores: `(1, N)` or `(N,)`, or a column per class. May be that of the boxes."""
    score_column: int | None = Field(None, ge=0)
    """Column of the person's score; None takes `person_class` where there is one column per class."""
    labels: str | None = None
    """Output with the class of each box, `(1, N)` or `(N,)`; only those of `person_class` count."""
    label_column: int | None = Field(None, ge=0)
    """Column of the class, where `labels` has several; may be in the output of the boxes."""
    form: Literal["corners", "corner-and-sides", "centre-and-sides"] = "corners"
    """x1, y1, x2, y2; or x1, y1, width, height; or centre, width, height."""
    unit: Literal["pixels", "shares"] = "pixels"
    """Of the network's input, or from 0 to 1."""
    logits: bool = False
    """Whether scores have yet to go through the sigmoid."""


class BoxesDetector(ForeignDetector[BoxesConfig]):
    """Reads the outputs by their names."""

    what: ClassVar[str] = "a detector"

    def _examine(self, found: Found) -> None:
        config = self.config
        for setting, name in (("boxes", config.boxes), ("scores", config.scores), ("labels", config.labels)):
            if name is not None and name not in found:
                raise self._refusal(
                    f"has no output {name!r} for the {setting}: it gives {shapes_of(found)}",
                    f"Set detector.{setting} to one of these.",
                )
        shape = found[config.boxes].shape
        if len(shape) not in (2, 3) or shape[-1] < 4:
            raise self._refusal(
                f"gives boxes of shape {shape}, expected is (N, 4) or (1, N, 4)",
                "Set detector.boxes to another output.",
            )
        self._need_column(found, config.scores, self._score_column(self._table(found, config.scores)), "score_column")
        if config.labels is not None:
            self._need_column(found, config.labels, config.label_column or 0, "label_column")

    def _need_column(self, found: Found, name: str, column: int, setting: str) -> None:
        table_NC, boxes_N4 = self._table(found, name), self._table(found, self.config.boxes)
        if table_NC.ndim != 2 or len(table_NC) != len(boxes_N4) or column >= table_NC.shape[1]:
            raise self._refusal(
                f"gives {shapes_of(found)}: {name!r} has no column {column} with a value for each box",
                f"Set detector.{setting}, counted from 0, or another output.",
            )

    def _table(self, found: Found, name: str) -> NDArray[np.float32]:
        """An output as `(N, C)`: without the axis of the batch, if the boxes have one."""
        value = found[name][0] if found[self.config.boxes].ndim == 3 and found[name].ndim > 1 else found[name]
        return value[:, None] if value.ndim == 1 else value

    def _score_column(self, table_NC: NDArray[np.float32]) -> int:
        if self.config.score_column is not None:
            return self.config.score_column
        return self.config.person_class if table_NC.shape[-1] > 1 else 0

    def _decode(self, found: Found) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        config = self.config
        boxes_N4 = self._table(found, config.boxes)[:, :4].astype(np.float32)
        table_NC = self._table(found, config.scores)
        scores_N = table_NC[:, self._score_column(table_NC)].astype(np.float32)
        if config.logits:
            scores_N = sigmoid(scores_N)
        keep_N = scores_N >= config.min_score
        if config.labels is not None:
            keep_N &= self._table(found, config.labels)[:, config.label_column or 0] == config.person_class
        first_N2, second_N2 = boxes_N4[keep_N, :2], boxes_N4[keep_N, 2:]
        if config.form == "corner-and-sides":
            second_N2 = first_N2 + second_N2
        elif config.form == "centre-and-sides":
            half_N2 = second_N2 * np.float32(0.5)
            first_N2, second_N2 = first_N2 - half_N2, first_N2 + half_N2
        corners_N4 = np.concatenate([first_N2, second_N2], axis=1)
        if config.unit == "shares":
            corners_N4 *= np.tile(np.array(self.size[::-1], dtype=np.float32), 2)
        return corners_N4, scores_N[keep_N]
