"""The bundle: the self-contained folder that is copied to devices, and its refusal when anything in it differs.

Contract between export, which writes it, and the edge, which reads it. `manifest.json` holds a hash of every other
file, so a bundle that loads is the bundle that was exported.
"""

# N = golden crops, H, W = input height and width, D = embedding

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError, model_validator

from reidge.edge.crops import ResizeMethod
from reidge.edge.errors import InputError
from reidge.edge.settings import describe_problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA_VERSION: Literal[1] = 1
MANIFEST_NAME = "manifest.json"
GOLDEN_NAME = "golden.npz"
ENCODER_KIND = "encoder"
Precision = Literal["float", "int8"]
ONNX_NAMES: dict[Precision, str] = {"float": "encoder.onnx", "int8": "encoder.int8.onnx"}
AnyManifest = TypeVar("AnyManifest", bound=BaseModel)


class BundleError(InputError):
    """The bundle is missing, incomplete, changed, or of another schema."""


class HashMismatch(BundleError):
    """A file of the bundle is not the one that was exported."""


class InputSpec(BaseModel, frozen=True, extra="forbid"):
    """How a crop must look before it enters the graph; colour and scale are handled inside the graph."""

    height: int = Field(gt=0)
    """Pixels."""
    width: int = Field(gt=0)
    """Pixels."""
    resize: ResizeMethod = "linear"
    """Interpolation that brings a crop to this size; see `reidge.edge.crops.resize_crops`."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


class FileEntry(BaseModel, frozen=True, extra="forbid"):
    """What a file of the bundle must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    """Bytes."""


class Parity(BaseModel, frozen=True, extra="forbid"):
    """How near embeddings of one precision are to those of the trained encoder, on crops held out of calibration."""

    crops: int = Field(gt=0)
    """Held-out crops compared."""
    cosine_mean: float
    cosine_p1: float
    """First percentile: one crop in a hundred is worse."""
    max_abs_diff: float = Field(ge=0)
    neighbour_overlap: float = Field(ge=0, le=1)
    """Share of each crop's ten nearest neighbours that is the same in both."""


class Accuracy(BaseModel, frozen=True, extra="forbid"):
    """How well the embeddings of one precision rank a labelled split."""

    mAP: float = Field(ge=0, le=1)
    rank1: float = Field(ge=0, le=1)
    split: str
    """Name of the data set."""
    queries: int = Field(gt=0)
    gallery: int = Field(gt=0)


Interval = tuple[float, float]
"""Low and high end."""


class ThresholdReport(BaseModel, frozen=True, extra="forbid"):
    """When two tracks are taken for one person, and how that was found."""

    min_similarity: float | None = Field(None, ge=-1, le=1)
    """Least cosine between mean embeddings of two tracks to match; None when there was nothing to calibrate on."""
    false_match_rate: float | None = Field(None, gt=0, lt=1)
    """Share of different-person pairs allowed to reach `min_similarity`."""
    tail_decay: float | None = Field(None, ge=0)
    """By how much more similar different-person pairs are 1/e as many, about `min_similarity`; None where not known."""
    method: str = "not calibrated"
    """What the threshold was taken from, in words."""
    tracklets: int = Field(0, ge=0)
    different_pairs: int = Field(0, ge=0)
    """Pairs of tracklets known to be different people."""
    same_pairs: int = Field(0, ge=0)
    """Tracklets long enough to be cut into two halves."""
    different_quantiles: dict[str, float] = Field(default_factory=dict)
    """Similarities of different people, by quantile, e.g. `{"0.5": 0.31}`."""
    same_quantiles: dict[str, float] = Field(default_factory=dict)
    """Similarities of halves of one tracklet; one camera only, so optimistic for two cameras."""
    all_quantiles: dict[str, float] = Field(default_factory=dict)
    """Similarities of all pairs of tracklets, whoever they are."""
    same_match_rate: float | None = Field(None, ge=0, le=1)
    """Share of same-person pairs that reach `min_similarity`."""
    found_false_match_rate: float | None = Field(None, ge=0, le=1)
    """Share of the known different pairs that reach `min_similarity`; None where none are known."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Of the three intervals below; from resampling tracklets, as pairs share them."""
    min_similarity_interval: Interval | None = None
    same_match_interval: Interval | None = None
    found_false_match_interval: Interval | None = None

    def similarity_at(self, rate: float) -> float | None:
        """Least similarity that at most `rate` of different-person pairs reach.

        Around `min_similarity` their tail is taken to fall off exponentially:
        `min_similarity + tail_decay * ln(false_match_rate / rate)`. A gallery of N identities makes N comparisons, so
        that a stranger is taken for somebody at about N times the rate.

        Args:
            rate: Per comparison of two tracks, above 0.

        Returns:
            A cosine from 0 to 1; `min_similarity` itself where the tail is not known, None where nothing is.
        """
        if self.min_similarity is None or self.false_match_rate is None or self.tail_decay is None:
            return self.min_similarity
        return min(max(self.min_similarity + self.tail_decay * math.log(self.false_match_rate / rate), 0.0), 1.0)


class Quantisation(BaseModel, frozen=True, extra="forbid"):
    """How the INT8 graph came about."""

    method: str
    """How activation ranges were taken from the histograms."""
    candidates: dict[str, float] = Field(default_factory=dict)
    """Mean held-out cosine of each method tried."""
    float_blocks: tuple[str, ...] = ()
    """Blocks that cost too much accuracy and were left in float, costliest first."""
    float_share: float = Field(0.0, ge=0, le=1)
    """Their share of the multiply-adds that could run in INT8."""
    gate: dict[str, float] = Field(default_factory=dict)
    """What the INT8 graph had to reach."""
    missed: tuple[str, ...] = ()
    """What of it was missed, in words."""
    forced: bool = False
    """The gate was missed and the export was told to go on."""


class Coverage(BaseModel, frozen=True, extra="forbid"):
    """What the calibration crops show of the site."""

    cameras: dict[str, int]
    """Calibration crops of every camera of the crop folder, 0 included."""
    tracklets: int = Field(ge=0)
    seconds: float = Field(ge=0)
    """From the earliest to the latest of them."""
    near_duplicates: int = Field(0, ge=0)
    """Crops passed over because one that looks the same, of the same camera, was drawn before."""


class GivenScales(BaseModel, frozen=True, extra="forbid"):
    """A file of scales that was taken in place of calibrating."""

    source: str
    """Name of the file and of the folder it was in."""
    sha256: str
    """Of the file."""


class Provenance(BaseModel, frozen=True, extra="forbid"):
    """Where a bundle comes from."""

    architecture: str
    source: str
    """Name of the run folder or weights file."""
    weights_sha256: str
    """Over names, shapes, types and values of all weights."""
    calibration_sha256: str | None
    """Over the calibration crops, as resized for the encoder; None where scales were given."""
    calibration_crops: int = Field(ge=0)
    """That ranges were taken from; 0 where scales were given."""
    scales: GivenScales | None = None
    held_out_crops: int = Field(0, ge=0)
    coverage: Coverage | None = None
    data_sha256: str | None = None
    """Over the index of the crop folder that calibration crops were drawn from."""
    recipe: dict[str, Any] | None = None
    """Everything that shaped the training run, when known."""
    seed: int = 0
    versions: dict[str, str] = Field(default_factory=dict)
    """Of the tools that took part."""
    created_at: str
    """UTC, ISO 8601."""


class Manifest(BaseModel, frozen=True, extra="forbid"):
    """What `manifest.json` says."""

    schema_version: Literal[1] = SCHEMA_VERSION
    files: dict[str, FileEntry]
    """By plain file name; every file of the bundle other than the manifest."""
    input: InputSpec
    embedding_dim: int = Field(gt=0)
    golden_min_cosine: dict[Precision, float]
    """Least cosine a device must reach on every golden crop before it goes live."""
    parity: dict[Precision, Parity] = Field(default_factory=dict)
    accuracy: dict[Precision, Accuracy] = Field(default_factory=dict)
    """On a labelled split, where the export was given one."""
    threshold: dict[Precision, ThresholdReport] = Field(default_factory=dict)
    quantisation: Quantisation | None = None
    provenance: Provenance

    @model_validator(mode="after")
    def _check_files(self) -> Manifest:
        for name in self.files:
            if Path(name).name != name or name in ("", ".", ".."):
                raise ValueError(f"files: {name!r} is not a plain file name")
        for name in (ONNX_NAMES["float"], GOLDEN_NAME):
            if name not in self.files:
                raise ValueError(f"files: {name} is missing")
        return self

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions the bundle has a graph for."""
        return tuple(precision for precision, name in ONNX_NAMES.items() if name in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Crops with known embeddings, by which a device checks itself."""

    crops_NHW3: NDArray[np.uint8]
    """BGR, already resized."""
    embeddings_ND: NDArray[np.float32]
    """Of the trained encoder in float, unit length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose files are all there and unchanged."""

    path: Path
    manifest: Manifest
    golden: Golden

    @classmethod
    def load(cls, path: Path | str) -> Bundle:
        """Read the manifest, verify every file's hash, and read the golden crops.

        Raises:
            BundleError: The folder is no bundle, or a file is missing, truncated, or of another schema.
            HashMismatch: A file is not the one that was exported.
        """
        path = Path(path)
        manifest = read_manifest(path)
        for name, entry in manifest.files.items():
            verify_file(path / name, entry)
        return cls(path=path, manifest=manifest, golden=read_golden(path / GOLDEN_NAME, manifest))

    @property
    def encoder_hash(self) -> str:
        """Identity of the embedding space: embeddings of another encoder must never be compared with these."""
        return self.manifest.files[ONNX_NAMES["float"]].sha256

    def onnx_path(self, precision: Precision) -> Path:
        """Path of the graph in that precision.

        Raises:
            BundleError: The bundle has no such graph.
        """
        if precision not in self.manifest.precisions:
            raise BundleError(
                f"{self.path} has no {precision} graph, only {', '.join(self.manifest.precisions)}. "
                "Choose one of these or export the bundle again."
            )
        return self.path / ONNX_NAMES[precision]


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe_file(path: Path) -> FileEntry:
    """Hash and size of a file, as the manifest states them."""
    return FileEntry(sha256=sha256_file(path), size=path.stat().st_size)


def verify_file(path: Path, entry: FileEntry) -> None:
    """Refuse a file that is not what the manifest says.

    Raises:
        BundleError: The file is missing, unreadable or of another size.
        HashMismatch: The size is right, the content is not.
    """
    try:
        found = describe_file(path)
    except OSError as error:
        raise BundleError(f"{path} of the bundle cannot be read: {error.strerror}. Copy the bundle again.") from error
    if found.size < entry.size:
        raise BundleError(f"{path} is truncated: {found.size} of {entry.size} bytes. Copy the bundle again.")
    if found != entry:
        raise HashMismatch(
            f"{path} was changed after the export: sha256 {found.sha256[:12]}..., the manifest says "
            f"{entry.sha256[:12]}.... Copy or export the bundle again."
        )


def read_manifest(bundle: Path) -> Manifest:
    """Read `manifest.json` of a bundle without looking at the other files.

    Raises:
        BundleError: It is missing, not JSON, of another schema version, or does not validate.
    """
    return read_json_manifest(bundle, Manifest, made_by="reidge export")


def read_json_manifest(bundle: Path, model: type[AnyManifest], *, made_by: str) -> AnyManifest:
    """Read `manifest.json` of a folder as what `model` describes.

    Args:
        bundle: The folder.
        model: Has a `schema_version` of 1, and a `kind` unless it describes an encoder.
        made_by: The command that makes such folders.

    Raises:
        BundleError: It is missing, not JSON, of another kind or schema version, or does not validate.
    """
    path = bundle / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{bundle} is not a bundle: {MANIFEST_NAME} is missing. Make one with: {made_by}") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    except (ValueError, RecursionError) as error:  # the latter for brackets in thousands of brackets
        raise BundleError(f"{path} is not JSON ({error}). Copy or export the bundle again.") from error
    found = kind_of(content)
    kind = model.model_fields["kind"].default if "kind" in model.model_fields else ENCODER_KIND
    if found != kind:
        raise BundleError(f"{bundle} holds a bundle of kind {found!r}, wanted is {kind!r}. Make one with: {made_by}")
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version!r}, this reidge reads {SCHEMA_VERSION}. "
            "Export the bundle again or use the matching reidge."
        )
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {where}: {describe_problem(first)}. Export the bundle again.") from error


def kind_of(content: object) -> object:
    """Kind of bundle that a manifest's content describes; encoders came first and say none."""
    return content.get("kind", ENCODER_KIND) if isinstance(content, dict) else ENCODER_KIND


def read_golden(path: Path, manifest: Manifest) -> Golden:
    """Read the golden crops and hold them against the manifest.

    Raises:
        BundleError: The file is not such an archive or its shapes do not fit the manifest.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            golden = Golden(crops_NHW3=archive["crops"], embeddings_ND=archive["embeddings"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} holds no golden crops and embeddings. Export the bundle again.") from error
    count = len(golden.crops_NHW3)
    shapes = golden.crops_NHW3.shape, golden.embeddings_ND.shape
    expected = (count, *manifest.input.size, 3), (count, manifest.embedding_dim)
    typed = golden.crops_NHW3.dtype == np.uint8 and golden.embeddings_ND.dtype == np.float32
    if count == 0 or shapes != expected or not typed:
        raise BundleError(f"{path} has shapes {shapes}, the manifest asks for {expected}. Export the bundle again.")
    return golden
