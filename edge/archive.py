"""A gallery as one file to keep elsewhere or to carry to another box: a zip of JSON lines and numpy arrays.

| member | what |
|---|---|
| `manifest.json` | format and version, hash of the encoder, length of an embedding, counts, how it is encrypted |
| `identities.jsonl` | one identity a line: uid, number, times, name, uids of those that were merged into it |
| `sightings.jsonl`, `sightings.npy` | one sighting a line; the embeddings, float32 `(N, D)`, of those that say a row |
| `exemplars.jsonl`, `exemplars.npy` | one exemplar a line; their embeddings, float32 `(M, D)`, in the same order |
| `crops.jsonl`, `crops/0.jpg`, ... | pictures, where the gallery keeps any, and whose they are |
| `tombstones.jsonl` | uids of everything that was erased |

Members refer to each other by uid: numbers are given anew in each gallery. Nothing is compressed, so that what an
archive unpacks to is never larger than the archive. With a secret every member but the manifest is sealed by itself.
"""

# M = exemplars, N = sightings with an embedding, D = embedding

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from reidge.edge.cipher import Cipher
from reidge.edge.errors import InputError
from reidge.edge.folder import make_own_folder, open_own
from reidge.edge.settings import describe_problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

HOW_TO_GIVE = "Give the secret that it was encrypted with as --secret-file."
FORMAT: Literal["reidge gallery"] = "reidge gallery"
VERSION: Literal[1] = 1
MANIFEST = "manifest.json"
UNIT_LENGTH = (0.99, 1.01)
"""What an embedding's length may be; float16 in between loses less."""
MOST = 1 << 48
"""Numbers beyond are no reidge's; from SQLite's largest on, no new one could be given."""
Uid = Field(pattern=r"^[0-9a-f]{32}$")
Entry = TypeVar("Entry", bound=BaseModel)


class Manifest(BaseModel, frozen=True, extra="forbid"):
    """What an archive says of itself; never encrypted."""

    format: Literal["reidge gallery"] = FORMAT
    version: Literal[1] = VERSION
    encoder: str
    """Hash of the encoder; embeddings of another one mean nothing to it."""
    embedding_dim: int = Field(gt=0)
    made_at: float
    """Seconds since the epoch, UTC."""
    identities: int = Field(ge=0)
    exemplars: int = Field(ge=0)
    sightings: int = Field(ge=0)
    crops: int = Field(ge=0)
    tombstones: int = Field(ge=0)
    encryption: str | None = None
    """How the key is made from the secret; None where nothing is sealed."""


class IdentityEntry(BaseModel, frozen=True, extra="forbid"):
    """One line of `identities.jsonl`."""

    uid: str = Uid
    number: int = Field(gt=0, le=MOST)
    """`global_id` in the gallery that it comes from."""
    created_at: float = Field(allow_inf_nan=False)
    last_seen: float = Field(allow_inf_nan=False)
    name: str | None
    absorbed: tuple[str, ...] = ()
    """uids of identities that were merged into it."""


class SightingEntry(BaseModel, frozen=True, extra="forbid"):
    """One line of `sightings.jsonl`."""

    uid: str = Uid
    identity: str | None
    """uid; None while undecided."""
    camid: str
    track_id: int = Field(ge=0, le=MOST)
    started_at: float = Field(allow_inf_nan=False)
    ended_at: float = Field(allow_inf_nan=False)
    similarity: float | None
    pictures: int = Field(ge=0, le=MOST)
    row: int | None
    """Of its embedding in `sightings.npy`; None without one."""


class ExemplarEntry(BaseModel, frozen=True, extra="forbid"):
    """One line of `exemplars.jsonl`; its embedding is the row of the same number."""

    identity: str
    sighting: str | None
    captured_at: float = Field(allow_inf_nan=False)
    quality: float = Field(allow_inf_nan=False)
    enrolled: bool


class CropEntry(BaseModel, frozen=True, extra="forbid"):
    """One line of `crops.jsonl`; its picture is `crops/<line>.jpg`, the first line being 0."""

    sighting: str | None
    exemplar: int | None
    """Line in `exemplars.jsonl`, where it is no sighting's."""


class TombstoneEntry(BaseModel, frozen=True, extra="forbid"):
    """One line of `tombstones.jsonl`."""

    uid: str = Uid
    kind: str
    erased_at: float = Field(allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What an archive holds."""

    encoder: str
    embedding_dim: int
    made_at: float
    identities: Sequence[IdentityEntry]
    sightings: Sequence[SightingEntry]
    sightings_ND: NDArray[np.float32]
    exemplars: Sequence[ExemplarEntry]
    exemplars_MD: NDArray[np.float32]
    crops: Sequence[CropEntry]
    images: Sequence[bytes]
    """JPEG, one for each of `crops`."""
    tombstones: Sequence[TombstoneEntry]


def write_archive(path: Path, archive: Archive, *, secret: str | None = None) -> None:
    """Write an archive, for the eyes of one user; it appears whole or not at all.

    Raises:
        InputError: `path` is there already.
        OSError: It cannot be written.
    """
    if path.exists():
        raise InputError(f"{path} already exists. Choose another output or remove it.")
    cipher = None if secret is None else Cipher.make(secret)
    manifest = Manifest(
        encoder=archive.encoder,
        embedding_dim=archive.embedding_dim,
        made_at=archive.made_at,
        identities=len(archive.identities),
        exemplars=len(archive.exemplars),
        sightings=len(archive.sightings),
        crops=len(archive.crops),
        tombstones=len(archive.tombstones),
        encryption=None if cipher is None else cipher.header,
    )
    members = {
        "identities.jsonl": _lines(archive.identities),
        "sightings.jsonl": _lines(archive.sightings),
        "sightings.npy": _array(archive.sightings_ND),
        "exemplars.jsonl": _lines(archive.exemplars),
        "exemplars.npy": _array(archive.exemplars_MD),
        "crops.jsonl": _lines(archive.crops),
        **{_crop_name(i): image for i, image in enumerate(archive.images)},
        "tombstones.jsonl": _lines(archive.tombstones),
    }
    make_own_folder(path.parent)
    partial = path.with_name(f".{path.name}.partial")
    try:
        open_own(partial, "w").close()
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as file:
            file.writestr(MANIFEST, manifest.model_dump_json(indent=1))
            for name, content in members.items():
                file.writestr(name, content if cipher is None else cipher.seal(content))
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.rename(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # of a full disk the kernel names no file
    finally:
        partial.unlink(missing_ok=True)


def read_archive(path: Path, *, secret: str | None = None) -> Archive:
    """Read an archive and hold its members against each other.

    Raises:
        InputError: It is no such archive, is damaged, of another version, or encrypted with another secret.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return _read(file, path, secret)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        reason = _reason(error)
        raise InputError(f"{path} is no usable archive of a gallery ({reason}). Export it again.") from error


def _read(file: zipfile.ZipFile, path: Path, secret: str | None) -> Archive:
    if any(member.compress_type != zipfile.ZIP_STORED for member in file.infolist()):
        raise ValueError("it is compressed")  # a few kilobytes could unpack to more than the disk holds
    manifest = _manifest(file, path)
    cipher = _cipher(manifest, secret, path)

    def member(name: str) -> bytes:
        content = file.read(name)
        return content if cipher is None else cipher.open(content)

    exemplars = _entries(ExemplarEntry, member("exemplars.jsonl"), "exemplars.jsonl")
    sightings = _entries(SightingEntry, member("sightings.jsonl"), "sightings.jsonl")
    crops = _entries(CropEntry, member("crops.jsonl"), "crops.jsonl")
    archive = Archive(
        encoder=manifest.encoder,
        embedding_dim=manifest.embedding_dim,
        made_at=manifest.made_at,
        identities=_entries(IdentityEntry, member("identities.jsonl"), "identities.jsonl"),
        sightings=sightings,
        sightings_ND=_embeddings(member("sightings.npy"), manifest.embedding_dim),
        exemplars=exemplars,
        exemplars_MD=_embeddings(member("exemplars.npy"), manifest.embedding_dim),
        crops=crops,
        images=[member(_crop_name(i)) for i in range(len(crops))],
        tombstones=_entries(TombstoneEntry, member("tombstones.jsonl"), "tombstones.jsonl"),
    )
    _check(archive, manifest)
    return archive


def _manifest(file: zipfile.ZipFile, path: Path) -> Manifest:
    content = json.loads(file.read(MANIFEST))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"its {MANIFEST} is of something else")
    if content.get("version") != VERSION:
        raise InputError(
            f"{path} is an archive of version {content.get('version')}, this reidge reads {VERSION}. "
            "Use the matching reidge."
        )
    return Manifest.model_validate(content)


def _cipher(manifest: Manifest, secret: str | None, path: Path) -> Cipher | None:
    if manifest.encryption is None:
        return None
    if secret is None:
        raise InputError(f"{path} is encrypted. {HOW_TO_GIVE}")
    return Cipher.from_header(manifest.encryption, secret, path=path, how_to_give=HOW_TO_GIVE)


def _check(archive: Archive, manifest: Manifest) -> None:
    """Refuse an archive whose members do not fit each other.

    Raises:
        ValueError: They do not; it says where.
    """
    people = {entry.uid for entry in archive.identities}
    seen = {entry.uid for entry in archive.sightings}
    counts = len(people), len(archive.exemplars), len(seen), len(archive.crops), len(archive.tombstones)
    said = manifest.identities, manifest.exemplars, manifest.sightings, manifest.crops, manifest.tombstones
    if counts != said:
        raise ValueError("it is incomplete")
    if len(archive.exemplars) != len(archive.exemplars_MD):
        raise ValueError("exemplars.npy has another length than exemplars.jsonl")
    if any(e.identity not in people or e.sighting not in {None, *seen} for e in archive.exemplars):
        raise ValueError("an exemplar is of nobody in it")
    if any(s.identity is not None and s.identity not in people for s in archive.sightings):
        raise ValueError("a sighting is of nobody in it")
    rows = [s.row for s in archive.sightings if s.row is not None]
    if sorted(rows) != list(range(len(archive.sightings_ND))):
        raise ValueError("sightings.npy has other rows than sightings.jsonl")
    for crop in archive.crops:
        if (crop.sighting is None) == (crop.exemplar is None):
            raise ValueError("a picture is of nothing, or of two things")
        if crop.sighting is not None and crop.sighting not in seen:
            raise ValueError("a picture is of no sighting in it")
        if crop.exemplar is not None and not 0 <= crop.exemplar < len(archive.exemplars):
            raise ValueError("a picture is of no exemplar in it")


def _crop_name(number: int) -> str:
    return f"crops/{number}.jpg"


def _lines(entries: Sequence[BaseModel]) -> bytes:
    return "".join(f"{entry.model_dump_json()}\n" for entry in entries).encode()


def _entries(model: type[Entry], content: bytes, name: str) -> list[Entry]:
    entries = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            entries.append(model.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{name}, line {number}: {where}: {describe_problem(first)}") from error
    return entries


def _array(array: NDArray[np.float32]) -> bytes:
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(array, dtype="<f4"), allow_pickle=False)
    return content.getvalue()


def _embeddings(content: bytes, embedding_dim: int) -> NDArray[np.float32]:
    """Embeddings `(K, D)` of unit length."""
    found_KD = np.load(io.BytesIO(content), allow_pickle=False)
    if found_KD.dtype != np.float32 or found_KD.ndim != 2 or found_KD.shape[1] != embedding_dim:
        raise ValueError(f"an array is {found_KD.dtype} {found_KD.shape}, not float32 (rows, {embedding_dim})")
    length_K = np.linalg.norm(found_KD, axis=1)
    if not ((length_K > UNIT_LENGTH[0]) & (length_K < UNIT_LENGTH[1])).all():  # nor is NaN between them
        raise ValueError("an embedding is not of unit length")
    return np.asarray(found_KD, dtype=np.float32)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return "a member is missing"
    text = str(error).splitlines()
    return " ".join(text[0].split()) if text else type(error).__name__
