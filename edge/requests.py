"""What a user may ask a gallery to change, with the same words whether a site runs on it or not."""

# D = embedding

from __future__ import annotations

import base64
import json
import time
import unicodedata
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter

from reidge.edge import audit
from reidge.edge.errors import InputError
from reidge.edge.retention import RetentionConfig, find_expired, forget_expired

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from reidge.edge.gallery import Gallery

PORTION = 200
"""Identities, and sightings, that are forgotten in one go because they are too old: the loop waits meanwhile."""
SIGHTINGS_AMONG = "SELECT sighting_id, global_id FROM sightings WHERE sighting_id IN (SELECT value FROM json_each(?))"
MAX_NAME = 200
"""Characters."""
UNFIT_FOR_NAMES = ("Cc", "Cs", "Zl", "Zp")
"""Categories of Unicode: what would break a line of output, or cannot be written at all."""
Answer = dict[str, Any]


def check_name(name: str) -> str:
    """A person's name, as it is.

    Raises:
        InputError: It is empty, too long, or would not fit on a line.
    """
    if not name or name != name.strip():
        raise InputError(f"the name {name!r} is empty, or begins or ends with a space. Leave that out.")
    if any(unicodedata.category(character) in UNFIT_FOR_NAMES for character in name):
        raise InputError(f"the name {name[:MAX_NAME]!r} holds a tab, a new line or the like. Leave that out.")
    if len(name) > MAX_NAME:
        raise InputError(f"the name has {len(name)} characters, {MAX_NAME} are the most. Give a shorter one.")
    return name


Name = Annotated[str, AfterValidator(check_name)]


class Request(BaseModel, frozen=True, extra="forbid"):
    """Something that a user wants changed."""

    by: str
    """User of the operating system, for the audit."""

    @property
    def erases(self) -> bool:
        """Whether what it removes must not be left in any file when it is answered."""
        return False

    @property
    def makes(self) -> bool:
        """Whether it may be the first thing in a gallery that is not there yet."""
        return False

    @abstractmethod
    def fulfil(self, gallery: Gallery, *, in_view: Collection[int] = ()) -> Answer:
        """Do it.

        Args:
            gallery: Open.
            in_view: Identities of people whom a running site sees at this moment.

        Returns:
            What there is to say about it, fit for JSON.

        Raises:
            InputError: It cannot be done.
        """


class Shot(BaseModel, frozen=True, extra="forbid"):
    """One picture of somebody, embedded."""

    embedding: str
    """float32, little-endian, in base64."""
    quality: float = Field(gt=0, le=1)
    crop: str | None = None
    """The picture, JPEG in base64, where it is to be kept."""

    @classmethod
    def of(cls, embedding_D: NDArray[np.float32], *, quality: float, crop: bytes | None = None) -> Shot:
        """Pack a picture."""
        text = None if crop is None else base64.b64encode(crop).decode()
        return cls(embedding=base64.b64encode(embedding_D.astype("<f4").tobytes()).decode(), quality=quality, crop=text)

    @property
    def embedding_D(self) -> NDArray[np.float32]:  # noqa: N802
        """Unit length."""
        return np.frombuffer(base64.b64decode(self.embedding), dtype="<f4").astype(np.float32)


class Enrol(Request, frozen=True):
    """Remember a person by name, from pictures."""

    action: Literal["enrol"] = "enrol"
    shots: tuple[Shot, ...] = Field(min_length=1)
    name: Name | None = None
    global_id: int | None = None
    """Somebody who is known already; None makes somebody new."""
    captured_at: float

    @property
    def makes(self) -> bool:
        """For somebody new."""
        return self.global_id is None

    def fulfil(self, gallery: Gallery, *, in_view: Collection[int] = ()) -> Answer:
        """Add each picture as an exemplar, or none where one of them cannot be."""
        embeddings = [shot.embedding_D for shot in self.shots]
        for embedding_D in embeddings:
            gallery.check(embedding_D)
        global_id = self.global_id
        for shot, embedding_D in zip(self.shots, embeddings, strict=True):
            global_id = gallery.enrol(
                embedding_D,
                captured_at=self.captured_at,
                global_id=global_id,
                quality=shot.quality,
                enrolled=True,
                name=self.name,
                crop=None if shot.crop is None else base64.b64decode(shot.crop),
            )
        assert global_id is not None
        gallery.keep([audit.note("enrol", actor=self.by, subject=(global_id,), pictures=len(self.shots))])
        return {"global_id": global_id, "created": self.global_id is None, "pictures": len(self.shots)}


class Rename(Request, frozen=True):
    """Give an identity a name, or take it away."""

    action: Literal["rename"] = "rename"
    global_id: int
    name: Name | None

    def fulfil(self, gallery: Gallery, *, in_view: Collection[int] = ()) -> Answer:
        """Rename; neither the audit nor the answer, which lies in the file for a while, says how."""
        gallery.rename(self.global_id, self.name)
        gallery.keep([audit.note("rename", actor=self.by, subject=(self.global_id,))])
        return {"global_id": self.global_id}


class Merge(Request, frozen=True):
    """Make two identities one."""

    action: Literal["merge"] = "merge"
    kept: int
    absorbed: int

    def fulfil(self, gallery: Gallery, *, in_view: Collection[int] = ()) -> Answer:
        """Merge; it can be taken back."""
        gallery.merge(kept=self.kept, absorbed=self.absorbed)
        gallery.keep([audit.note("merge", actor=self.by, subject=(self.kept, self.absorbed))])
        return {"global_id": self.kept, "merged_from": self.absorbed}


class Unmerge(Request, frozen=True):
    """Take a merge back."""

    action: Literal["unmerge"] = "unmerge"
    absorbed: int

    def fulfil(self, gallery: Gallery, *, in_view: Collection[int] = ()) -> Answer:
        """Give the number back that was absorbed, with what belonged to it."""
        kept = gallery.unmerge(self.absorbed)
        gallery.keep([audit.note("unmerge", actor=self.by, subject=(kept, self.absorbed))])
        sightings = [row.sighting_id for row in gallery.sightings(global_id=self.absorbed)]
        return {"global_id": self.absorbed, "split_from": kept, "sightings": sightings}


class Split(Request, frozen=True):
    """Make some sightings of an identity a new one."""

    action: Literal["split"] = "split"
    global_id: int
    sighting_ids: tuple[int, ...] = Field(min_length=1)

    def fulfil(self, gallery: Gallery, *, in_view: Collection[int] = ()) -> Answer:
        """Split."""
        own = gallery.own_among(self.global_id, self.sighting_ids)
        if own and (others := set(self.sighting_ids) - own.keys()):
            raise InputError(f"sighting {min(others)} is not of identity {self.global_id}. See: reidge gallery show")
        made = gallery.split(self.global_id, self.sighting_ids)
        gallery.keep([audit.note("split", actor=self.by, subject=(self.global_id, made))])
        return {"global_id": made, "split_from": self.global_id, "sightings": list(dict.fromkeys(self.sighting_ids))}


class Erase(Request, frozen=True):
    """Forget identities, or sightings of which nobody knows who they are, for good."""

    action: Literal["erase"] = "erase"
    global_ids: tuple[int, ...] = ()
    sighting_ids: tuple[int, ...] = ()

    @property
    def erases(self) -> bool:
        """Always."""
        return True

    def fulfil(self, gallery: Gallery, *, in_view: Collection[int] = ()) -> Answer:
        """Forget all of them, or nobody where one of them does not exist."""
        for global_id in self.global_ids:
            gallery.identity(global_id)
        gallery.settle()
        owners = dict(gallery.store.read(SIGHTINGS_AMONG, (json.dumps(self.sighting_ids),)))
        if missing := set(self.sighting_ids) - owners.keys():
            raise InputError(f"there is no sighting {min(missing)} in {gallery.path}. See: reidge gallery list")
        for number, owner in owners.items():
            if owner is not None and owner not in self.global_ids:  # who may have nothing left by it to be known by
                raise InputError(
                    f"sighting {number} is of identity {owner}. Erase that one, or make the sighting one of its own "
                    "before: reidge gallery split"
                )
        for global_id in dict.fromkeys(self.global_ids):
            gallery.forget(global_id)
        if self.sighting_ids:
            gallery.forget_sightings(self.sighting_ids)
        erased, sightings = list(dict.fromkeys(self.global_ids)), list(dict.fromkeys(self.sighting_ids))
        gallery.keep([audit.note("erase", actor=self.by, subject=erased, sightings=len(sightings))])
        return {"erased": erased, "sightings": sightings}


class Retain(Request, frozen=True):
    """Forget who was not seen for long."""

    action: Literal["retain"] = "retain"
    config: RetentionConfig
    now: float
    """Seconds since the epoch, UTC, that ages are counted up to."""

    @property
    def erases(self) -> bool:
        """Always."""
        return True

    def fulfil(self, gallery: Gallery, *, in_view: Collection[int] = ()) -> Answer:
        """Forget one portion; the answer says whether there is more."""
        expired = find_expired(gallery, self.config, now=self.now, limit=PORTION)
        gone = forget_expired(gallery, expired, keep=in_view)
        sightings = list(expired.sightings)
        if gone or sightings:
            gallery.keep([audit.note("retain", actor=self.by, identities=len(gone), sightings=len(sightings))])
        return {"erased": gone, "sightings": sightings, "more": expired.more and bool(gone or sightings)}


AnyRequest = Annotated[Enrol | Rename | Merge | Unmerge | Split | Erase | Retain, Field(discriminator="action")]
READ: TypeAdapter[Request] = TypeAdapter(AnyRequest)


def read_request(text: str) -> Request:
    """Read a request as JSON.

    Raises:
        InputError: It is none.
    """
    try:
        return READ.validate_json(text)
    except ValueError as error:
        raise InputError("the request is of another reidge. Use the same one that runs the site.") from error


def retain_now(config: RetentionConfig, *, by: str = audit.RETENTION) -> Retain:
    """Ask for everybody to be forgotten who is too old by this machine's clock."""
    limits = RetentionConfig(
        retention_days=config.retention_days, retention_enrolled_days=config.retention_enrolled_days
    )
    return Retain(by=by, config=limits, now=time.time())
