"""Pictures of one person that a user gives, to be looked for or remembered, and how good they are."""

# P = pictures, D = embedding; 4 = x1, y1, x2, y2

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge.crops import encode_picture, read_image, resize_crops
from reidge.edge.errors import InputError
from reidge.edge.quality import comparable_sharpness, cut_out

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.backends import EdgeEncoder
    from reidge.edge.detectors import Detector
    from reidge.edge.quality import QualityConfig

MIN_SHARPNESS = 0.3
"""Of a picture with anything in it, at the size at which pictures are compared; one of a person has hundreds."""
MIN_FOR_USUAL = 3
"""Pictures from which on it is known what is usual among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """One picture of a person."""

    path: Path
    crop_HW3: NDArray[np.uint8]
    """The person alone, BGR."""
    embedding_D: NDArray[np.float32]
    quality: float
    """How much of the encoder's input the picture fills, 0 to 1."""
    likeness: float | None
    """Median similarity to the other pictures; None where there is no other."""
    flaws: tuple[str, ...]
    """What speaks against it, in words."""
    unfit: str | None
    """Why it shows nobody well enough to be remembered by; None where it may."""

    def jpeg(self) -> bytes:
        """The person alone, as a gallery keeps pictures."""
        return encode_picture(self.crop_HW3)


def read_portraits(
    paths: Sequence[Path],
    *,
    encoder: EdgeEncoder,
    quality: QualityConfig,
    min_similarity: float,
    detector: Detector | None = None,
) -> list[Portrait]:
    """Read and embed pictures of one person.

    Args:
        paths: Image files: crops of the person, or with a detector pictures in which it is the only one.
        encoder: Open.
        quality: What a site takes for good enough; worse pictures are taken too, and it is said.
        min_similarity: Pictures less like the others are said to be of somebody else, perhaps.
        detector: Open; finds the person in each picture. None: the pictures show the person alone.

    Raises:
        InputError: A file is no image, or does not show one person.
    """
    images = [read_image(path) for path in paths]
    if detector is not None:
        images = [_cut_person(image, path, detector, quality) for image, path in zip(images, paths, strict=True)]
    spec = encoder.bundle.manifest.input
    embeddings_PD = encoder.embed(resize_crops(images, size=spec.size, method=spec.resize))
    if not np.isfinite(embeddings_PD).all():
        raise InputError("the encoder makes no numbers of these pictures. Give others.")
    sharpness_P = [comparable_sharpness(image) for image in images]
    usual = float(np.median(sharpness_P)) if len(images) >= MIN_FOR_USUAL else None
    portraits = []
    for i, (path, image) in enumerate(zip(paths, images, strict=True)):
        others_PD = np.delete(embeddings_PD, i, axis=0)
        # The median: of four pictures the one of somebody else must not spoil what is said of the three.
        likeness = float(np.median(others_PD @ embeddings_PD[i])) if len(others_PD) else None
        flaws = _flaws(image, whole=detector is None, quality=quality)
        blank = detector is None and sharpness_P[i] < MIN_SHARPNESS  # in others a detector has found somebody
        if blank:
            flaws.insert(0, "it is blank")
        unfit = flaws[0] if blank or image.shape[0] < quality.min_height else None
        if usual is not None and sharpness_P[i] < quality.min_sharpness * usual:
            flaws.append("much less sharp than the others")
        if likeness is not None and likeness < min_similarity:
            flaws.append(f"unlike the others ({likeness:.2f}): is it the same person?")
        portraits.append(
            Portrait(
                path=path,
                crop_HW3=image,
                embedding_D=embeddings_PD[i],
                quality=min(1.0, image.shape[0] / spec.height),
                likeness=likeness,
                flaws=tuple(flaws),
                unfit=unfit,
            )
        )
    return portraits


def mean_embedding(portraits: Sequence[Portrait]) -> NDArray[np.float32]:
    """What all pictures together look like, unit length; a better picture weighs more."""
    sum_D = np.sum([portrait.quality * portrait.embedding_D for portrait in portraits], axis=0)
    return np.asarray(sum_D / max(float(np.linalg.norm(sum_D)), 1e-9), dtype=np.float32)


def _flaws(image_HW3: NDArray[np.uint8], *, whole: bool, quality: QualityConfig) -> list[str]:
    height, width = image_HW3.shape[:2]
    flaws = []
    if height < quality.min_height:
        flaws.append(f"{height} pixels high, {quality.min_height} are asked for")
    if whole and width > height:
        flaws.append("wider than high: where it shows more than the person, give --whole")
    return flaws


def _cut_person(
    image_HW3: NDArray[np.uint8], path: Path, detector: Detector, quality: QualityConfig
) -> NDArray[np.uint8]:
    """Cut out the one person whom a picture shows."""
    detections = detector.detect("", image_HW3)
    boxes_N4 = detections.boxes_N4[detections.scores_N >= quality.min_score]
    if len(boxes_N4) != 1:
        found = "nobody" if len(boxes_N4) == 0 else f"{len(boxes_N4)} people"
        raise InputError(f"{path} shows {found} to the site's detector. Cut the person out and give that picture.")
    return cut_out(image_HW3, boxes_N4[0], padding=quality.padding)
