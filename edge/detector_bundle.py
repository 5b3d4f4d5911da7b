"""A detector as it is deployed: graphs that take frames as they are, with hashes and golden frames.

Contract between `reidge export detector`, which writes it, and the edge, which reads it. Both graphs take `frames`,
uint8 `(N, H, W, 3)` BGR in a letterbox, and give `people`, float32 `(N, A, 5)`: x1, y1, x2, y2 in pixels of the input,
and a score from 0 to 1. What family of network is inside, and what it wants its pictures to look like, is nobody's
concern any more.
"""

# N = frames, H, W = input height and width, A = candidate boxes, M = golden boxes, 4 = x1, y1, x2, y2

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator

from reidge.edge.agreement import Agreement
from reidge.edge.bundle import (
    GOLDEN_NAME,
    BundleError,
    FileEntry,
    Precision,
    Quantisation,
    read_json_manifest,
    verify_file,
)
from reidge.edge.detection import Detections

if TYPE_CHECKING:
    from numpy.typing import NDArray

DETECTOR_NAMES: dict[Precision, str] = {"float": "detector.onnx", "int8": "detector.int8.onnx"}
Family = Literal["yolox", "rtdetr"]
Channels = Literal["bgr", "rgb"]


class FrameSpec(BaseModel, frozen=True, extra="forbid"):
    """Size of the letterbox that a frame is put into."""

    height: int = Field(gt=0)
    """Pixels."""
    width: int = Field(gt=0)
    """Pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


class DetectorOrigin(BaseModel, frozen=True, extra="forbid"):
    """Where a detector comes from and what was folded into its graphs."""

    source: str
    """Name of the ONNX file."""
    source_sha256: str
    family: Family
    person_class: int = Field(ge=0)
    """Column of the person among the classes."""
    channels: Channels
    """Order in which the network itself sees colours."""
    mean: tuple[float, float, float]
    """Subtracted, in the network's order of channels, of values from 0 to 255."""
    std: tuple[float, float, float]
    """Divided by after that."""
    calibration_frames: int = Field(ge=0)
    calibration_sha256: str
    """Over these frames, as resized for the detector."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Of the tools that took part."""
    created_at: str
    """UTC, ISO 8601."""


class DetectorManifest(BaseModel, frozen=True, extra="forbid"):
    """What `manifest.json` of a detector says."""

    schema_version: Literal[1] = 1
    kind: Literal["detector"] = "detector"
    files: dict[str, FileEntry]
    """By plain file name; every file of the folder other than the manifest."""
    input: FrameSpec
    golden_min_agreement: dict[Precision, float]
    """Least F1 of the boxes found in the golden frames before a device goes live."""
    agreement: Agreement
    """Of INT8 with float, on frames held out of calibration."""
    quantisation: Quantisation
    provenance: DetectorOrigin

    @model_validator(mode="after")
    def _check_files(self) -> DetectorManifest:
        for name in self.files:
            if Path(name).name != name or name in ("", ".", ".."):
                raise ValueError(f"files: {name!r} is not a plain file name")
        for name in (*DETECTOR_NAMES.values(), GOLDEN_NAME):
            if name not in self.files:
                raise ValueError(f"files: {name} is missing")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenFrames:
    """Frames with known people, by which a device checks itself."""

    frames_NHW3: NDArray[np.uint8]
    """BGR, in the letterbox."""
    people: tuple[Detections, ...]
    """What the float graph finds in each, in pixels of the letterbox."""

    def write(self, path: Path) -> None:
        """Write an archive that `read` takes."""
        np.savez_compressed(
            path,
            frames=self.frames_NHW3,
            boxes=np.concatenate([found.boxes_N4 for found in self.people]),
            scores=np.concatenate([found.scores_N for found in self.people]),
            counts=np.array([len(found) for found in self.people], dtype=np.int64),
        )

    @classmethod
    def read(cls, path: Path, spec: FrameSpec) -> GoldenFrames:
        """Read such an archive and hold it against the manifest.

        Raises:
            BundleError: The file is not such an archive or its shapes do not fit.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                frames_NHW3, boxes_M4 = archive["frames"], archive["boxes"]
                scores_M, counts_N = archive["scores"], archive["counts"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path} holds no golden frames. Export the detector again.") from error
        count = len(counts_N)
        fits = (
            count > 0
            and frames_NHW3.dtype == np.uint8
            and frames_NHW3.shape == (count, *spec.size, 3)
            and counts_N.min() >= 0
            and boxes_M4.shape == (counts_N.sum(), 4)
            and scores_M.shape == (counts_N.sum(),)
        )
        if not fits:
            raise BundleError(f"{path} does not fit the manifest's input {spec.size}. Export the detector again.")
        ends = np.cumsum(counts_N)[:-1]
        people = map(Detections.from_arrays, np.split(boxes_M4, ends), np.split(scores_M, ends))
        return cls(frames_NHW3=frames_NHW3, people=tuple(people))


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorBundle:
    """A detector whose files are all there and unchanged."""

    path: Path
    manifest: DetectorManifest
    golden: GoldenFrames

    @classmethod
    def load(cls, path: Path | str) -> DetectorBundle:
        """Read the manifest, verify every file's hash, and read the golden frames.

        Raises:
            BundleError: The folder is no exported detector, or a file is missing, truncated, or of another schema.
            HashMismatch: A file is not the one that was exported.
        """
        path = Path(path)
        manifest = read_json_manifest(path, DetectorManifest, made_by="reidge export detector")
        for name, entry in manifest.files.items():
            verify_file(path / name, entry)
        return cls(path=path, manifest=manifest, golden=GoldenFrames.read(path / GOLDEN_NAME, manifest.input))

    def onnx_path(self, precision: Precision) -> Path:
        """Path of the graph in that precision."""
        return self.path / DETECTOR_NAMES[precision]
