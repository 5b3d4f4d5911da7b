"""The site file: which cameras, which bundle, and where the results go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, Field, SecretStr, model_validator

from reidge.edge.backends.presence import Backend
from reidge.edge.camera import CameraConfig
from reidge.edge.detectors import DetectorConfig
from reidge.edge.detectors.motion import MotionConfig
from reidge.edge.errors import InputError
from reidge.edge.governor import LoadConfig
from reidge.edge.outputs import OutputConfig
from reidge.edge.quality import QualityConfig
from reidge.edge.retention import RetentionConfig
from reidge.edge.secrets import fill_in
from reidge.edge.settings import apply_overrides, describe_yaml_error, validate
from reidge.edge.sightings import EvidenceConfig
from reidge.edge.sources.address import check_address
from reidge.edge.tracker import TrackerConfig
from reidge.edge.watchdog import WatchdogConfig
from reidge.edge.web import WebConfig

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence


class EncoderConfig(BaseModel, frozen=True, extra="forbid"):
    """How the bundle's encoder runs."""

    backend: Literal["auto"] | Backend = "auto"
    precision: Literal["auto", "float", "int8"] = "auto"
    threads: int | None = Field(None, ge=1)
    """CPU threads; None leaves it to the runtime."""


class IdentityConfig(EvidenceConfig, frozen=True, extra="forbid"):
    """When a track is a known person."""

    min_similarity: float | None = Field(None, ge=-1, le=1)
    """Least similarity to an identity to be it; None takes the bundle's calibrated one."""
    min_margin: float = Field(0.0, ge=0, le=2)
    """Least lead over the second-best identity."""
    stranger_rate: float = Field(0.02, gt=0, lt=1)
    """Share of strangers that may be taken for somebody; with the bundle's threshold only, which rises for it with the
    number of people known."""
    max_exemplars: int = Field(8, ge=1)
    """Embeddings kept of each identity."""
    updates_every: float = Field(1.0, gt=0)
    """Seconds between sighting.updated events of a track."""


class TransitConfig(BaseModel, frozen=True, extra="forbid"):
    """How long the way between two cameras takes, either way."""

    between: tuple[str, str]
    """Their names."""
    seconds: tuple[float, float]
    """Least, which nobody can do faster, and most, which is only what is usual."""

    @model_validator(mode="after")
    def _ordered(self) -> TransitConfig:
        if self.between[0] == self.between[1]:
            raise ValueError(f"between are two cameras, got {self.between[0]} twice")
        if min(self.seconds) < 0:
            raise ValueError(f"seconds must be at least 0, got {list(self.seconds)}")
        if not self.seconds[0] < self.seconds[1]:
            raise ValueError(f"seconds are the least and the most, got {list(self.seconds)}")
        return self


class StorageConfig(RetentionConfig, frozen=True, extra="forbid"):
    """What is kept between runs."""

    gallery: str = ":memory:"
    """SQLite file of the identities; `:memory:` forgets them at the end."""
    secret: SecretStr | None = Field(None, min_length=8)
    """Embeddings and pictures are encrypted in the gallery with a key made from it; null leaves them as they are."""
    crops: bool = False
    """Whether the best picture of each sighting is kept in the gallery."""

    @property
    def key(self) -> str | None:
        """The secret itself."""
        return None if self.secret is None else self.secret.get_secret_value()


class Site(BaseModel, frozen=True, extra="forbid"):
    """Everything about a site."""

    bundle: Path
    """The bundle folder."""
    cameras: tuple[CameraConfig, ...] = Field(min_length=1)
    """At least one: streams and devices, or recordings."""
    detector: DetectorConfig = MotionConfig()
    """What finds people in a frame."""
    tracking: TrackerConfig = TrackerConfig()
    """How detections of one camera become tracks."""
    quality: QualityConfig = QualityConfig()
    """Which pictures of people are good enough to embed."""
    encoder: EncoderConfig = EncoderConfig()
    """How the bundle's encoder runs."""
    identity: IdentityConfig = IdentityConfig()
    """When a track is a known person."""
    transit: tuple[TransitConfig, ...] = ()
    """Walking times between cameras, where they are known; others are learned."""
    storage: StorageConfig = StorageConfig()
    """What is kept between runs."""
    outputs: OutputConfig = OutputConfig()
    """Where events go."""
    load: LoadConfig = LoadConfig()
    """What happens when there are more frames than the box can handle."""
    watchdog: WatchdogConfig = WatchdogConfig()
    """When a loop that hangs is ended."""
    web: WebConfig | None = None
    """The endpoint with metrics and health; null opens none."""


def load_site(path: Path, overrides: Sequence[str] = ()) -> Site:
    """Read a site file.

    Secrets and variables are filled in by `reidge.edge.secrets`; relative paths start at the file's folder.

    Args:
        path: The YAML file.
        overrides: `key=value` pairs that replace what the file says, e.g. `cameras.0.source=a.mp4`.

    Raises:
        InputError: The file is missing or no YAML, a variable or a secret's file is missing, or a key is unknown or has
            a wrong value.
    """
    site = validate(Site, read_sections(path, overrides), where=str(path))
    names = [camera.name for camera in site.cameras]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: two cameras are named {twice[0]!r}. Give each its own name.")
    for camera in site.cameras:
        try:
            check_address(camera.source)
        except InputError as error:
            raise InputError(f"{path}: camera {camera.name}: {error}") from error
        if camera.moves and site.detector.kind == "motion":
            raise InputError(
                f"{path}: {camera.name} moves, and to the motion detector all that moves is a person. "
                "Use another detector, or leave out moves."
            )
        if unknown := [name for name in camera.overlaps if name not in names]:
            raise InputError(f"{path}: {camera.name} overlaps {unknown[0]!r}, which is no camera of this site.")
        if camera.name in camera.overlaps:
            raise InputError(f"{path}: {camera.name} overlaps itself, which goes without saying. Take that out.")
    said: set[frozenset[str]] = set()
    for way in site.transit:
        if unknown := [name for name in way.between if name not in names]:
            raise InputError(f"{path}: transit is said for {unknown[0]!r}, which is no camera of this site.")
        if frozenset(way.between) in said:
            raise InputError(f"{path}: transit is said twice for {' and '.join(way.between)}. Leave one of them out.")
        said.add(frozenset(way.between))
    return _resolve(site, path.parent)


def read_sections(path: Path, overrides: Sequence[str] = (), *, only: Collection[str] | None = None) -> dict[str, Any]:
    """Read a site file as far as secrets and variables go; what it says is not checked.

    Args:
        path: The YAML file.
        overrides: `key=value` pairs that replace what the file says.
        only: Sections to read; secrets of others need not be there. None reads all.

    Raises:
        InputError: The file is missing or no YAML, or a variable or a secret's file is missing.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not YAML: {describe_yaml_error(error)}. Correct it there.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} has no settings. See examples/ for a site file.")
    try:
        values = apply_overrides(values, overrides)
        if only is not None:
            values = {name: values[name] for name in values if name in only}
        filled: dict[str, Any] = fill_in(values, path)
    except RecursionError as error:
        raise InputError(f"{path}: a setting holds itself, by an alias inside its own anchor. Write it out.") from error
    for key in _holding_nul(filled):  # which no path, name or address may
        raise InputError(f"{path}: {key} holds a NUL character. Take it out.")
    return filled


def _holding_nul(values: Any, key: str = "") -> Iterator[str]:
    """Find the settings whose text holds a NUL character."""
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for name, value in inner:
        yield from _holding_nul(value, f"{key}.{name}".lstrip("."))
    if isinstance(values, str) and "\0" in values:
        yield key


def _resolve(site: Site, folder: Path) -> Site:
    """Make relative paths start at `folder`."""
    cameras = tuple(
        camera if camera.live else camera.model_copy(update={"source": str(folder / camera.source)})
        for camera in site.cameras
    )
    detector = site.detector
    if detector.kind != "motion":
        detector = detector.model_copy(update={"path": folder / detector.path})
    gallery = site.storage.gallery
    if gallery != ":memory:":
        gallery = str(folder / gallery)
    return site.model_copy(
        update={
            "bundle": folder / site.bundle,
            "cameras": cameras,
            "detector": detector,
            "storage": site.storage.model_copy(update={"gallery": gallery}),
            "outputs": site.outputs.inside(folder),
        }
    )
