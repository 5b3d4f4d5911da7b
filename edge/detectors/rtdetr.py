"""People found by RT-DETR and its relatives in ONNX: D-FINE, DEIM, RF-DETR.

Their exports come in two forms. Raw: boxes as centre and sides, in shares of the picture, beside (or joined with) a
number for each class. Finished, as the reference implementations' export scripts write them (lyuwenyu/RT-DETR,
Peterande/D-FINE): a second input `orig_target_sizes` with the width and height to scale to, and outputs `labels`,
`boxes` (corners in that scale) and `scores`.
"""

# Q = queries; C = classes; N = boxes; 4 = x1, y1, x2, y2, or centre and sides

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from reidge.edge.detectors.foreign import ForeignConfig, ForeignDetector, shapes_of, sigmoid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reidge.edge.detectors.network import Found

SIZES = "orig_target_sizes"


class RtdetrConfig(ForeignConfig, frozen=True, extra="forbid"):
    """Settings of an RT-DETR; its relatives differ in `person_class`, `mean` and `std`."""

    kind: Literal["rtdetr"] = "rtdetr"
    scores: Literal["auto", "logits", "probabilities"] = "auto"
    """Whether class numbers of the raw form have yet to go through the sigmoid; `auto` looks at them."""
    resize: Literal["letterbox", "stretch"] = "stretch"
    channels: Literal["bgr", "rgb"] = "rgb"
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)


class RtdetrDetector(ForeignDetector[RtdetrConfig]):
    """Takes both forms; which one it is shows in the outputs."""

    what: ClassVar[str] = "an RT-DETR"

    def _feed(self, batch_F3HW: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        feed = super()._feed(batch_F3HW)
        for port in self._network.inputs:
            if port.name == SIZES:
                width_height = self.size[::-1]
                feed[SIZES] = np.tile(np.array(width_height, dtype=port.dtype), (len(batch_F3HW), 1))
        return feed

    def _examine(self, found: Found) -> None:
        self._finished = {"labels", "boxes", "scores"} <= set(found)
        if self._finished:
            fits = (
                found["boxes"].shape == (*found["scores"].shape, 4) and found["labels"].shape == found["scores"].shape
            )
            if fits and found["scores"].ndim == 2:
                return
        boxes, classes = self._raw_names(found)
        values = found[classes][..., 4:] if boxes == classes else found[classes]
        if values.ndim != 3 or values.shape[:2] != found[boxes].shape[:2]:
            raise self._stranger(found)
        if self.config.person_class >= values.shape[2]:
            raise self._refusal(
                f"knows {values.shape[2]} classes, the person is to be number {self.config.person_class}",
                "Set person_class to a smaller one, counted from 0.",
            )
        self._boxes, self._classes = boxes, classes
        unsure = bool(values.min() < 0 or values.max() > 1)
        self._logits = unsure if self.config.scores == "auto" else self.config.scores == "logits"

    def _raw_names(self, found: Found) -> tuple[str, str]:
        """Names of the outputs with boxes and with classes; the same where they are joined."""
        flat = {name: value for name, value in found.items() if value.ndim == 3}
        if len(found) == 1 and flat and next(iter(flat.values())).shape[2] > 4:
            name = next(iter(flat))
            return name, name
        fours = [name for name, value in flat.items() if value.shape[2] == 4]
        boxes = next((name for name in fours if "box" in name or name == "dets"), next(iter(fours), ""))
        classes = next((name for name in flat if name != boxes), "")
        if not boxes or not classes:
            raise self._stranger(found)
        return boxes, classes

    def _stranger(self, found: Found) -> Exception:
        return self._refusal(
            f"is not an RT-DETR: it gives {shapes_of(found)}, expected are labels, boxes and scores, or boxes "
            "(N, Q, 4) and classes (N, Q, C)",
            "Export it again, or describe its outputs by kind: boxes.",
        )

    def _decode(self, found: Found) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self._finished:
            scores_Q = found["scores"][0]
            keep_Q = (found["labels"][0] == self.config.person_class) & (scores_Q >= self.config.min_score)
            return found["boxes"][0][keep_Q], scores_Q[keep_Q]
        boxes_Q4 = found[self._boxes][0, :, :4]
        first_class = 4 if self._boxes == self._classes else 0
        scores_Q = found[self._classes][0, :, first_class + self.config.person_class]
        if self._logits:
            scores_Q = sigmoid(scores_Q)
        keep_Q = scores_Q >= self.config.min_score
        height, width = self.size
        centres_N2, sides_N2 = boxes_Q4[keep_Q, :2] * (width, height), boxes_Q4[keep_Q, 2:] * (width, height)
        return np.concatenate([centres_N2 - sides_N2 / 2, centres_N2 + sides_N2 / 2], axis=1), scores_Q[keep_Q]
