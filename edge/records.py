"""What the gallery's file holds, and the statements that change it.

The gallery in memory speaks first; the file follows statement by statement, in the same order. A statement never
fails because of what another process erased meanwhile: what belongs to nobody any more goes nowhere.
"""

# D = embedding

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PUT_IDENTITY = """
INSERT INTO identities (global_id, uid, created_at, last_seen, name) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (global_id) DO NOTHING
"""
SEE_IDENTITY = "UPDATE identities SET last_seen = max(last_seen, ?2) WHERE global_id = ?1"
SET_SEEN = "UPDATE identities SET last_seen = ?2 WHERE global_id = ?1"
NAME_IDENTITY = "UPDATE identities SET name = ?2 WHERE global_id = ?1"
DROP_IDENTITY = "DELETE FROM identities WHERE global_id = ?"
PUT_EXEMPLAR = """
INSERT INTO exemplars (exemplar_id, global_id, sighting_id, captured_at, quality, enrolled, embedding)
SELECT ?1, ?2, (SELECT sighting_id FROM sightings WHERE sighting_id = ?3), ?4, ?5, ?6, ?7
WHERE EXISTS (SELECT 1 FROM identities WHERE global_id = ?2)
"""
MOVE_EXEMPLAR = """
UPDATE exemplars SET global_id = ?2
WHERE exemplar_id = ?1 AND EXISTS (SELECT 1 FROM identities WHERE global_id = ?2)
"""
DROP_EXEMPLAR = "DELETE FROM exemplars WHERE exemplar_id = ?"
PUT_SIGHTING = """
INSERT INTO sightings
    (sighting_id, uid, camid, track_id, started_at, ended_at, global_id, similarity, pictures, embedding)
VALUES (?, ?, ?, ?, ?, ?, (SELECT global_id FROM identities WHERE global_id = ?), ?, ?, ?)
ON CONFLICT (sighting_id) DO NOTHING
"""
ASSIGN_SIGHTING = """
UPDATE sightings SET global_id = (SELECT global_id FROM identities WHERE global_id = ?2), similarity = ?3
WHERE sighting_id = ?1
"""
MOVE_SIGHTINGS = """
UPDATE sightings SET global_id = ?2
WHERE sighting_id IN (SELECT value FROM json_each(?3)) AND global_id = ?1
    AND EXISTS (SELECT 1 FROM identities WHERE global_id = ?2)
"""
DROP_SIMILARITIES = "UPDATE sightings SET similarity = NULL WHERE global_id = ?"
MOVE_ALL_SIGHTINGS = """
UPDATE sightings SET global_id = ?2
WHERE global_id = ?1 AND EXISTS (SELECT 1 FROM identities WHERE global_id = ?2)
"""
PUT_CROP = """
INSERT INTO crops (sighting_id, exemplar_id, image)
SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM sightings WHERE sighting_id = ?1)
    OR EXISTS (SELECT 1 FROM exemplars WHERE exemplar_id = ?2)
"""


@dataclass(slots=True, kw_only=True)
class Identity:
    """Somebody who was seen, or was enrolled by name."""

    global_id: int
    created_at: float
    """Seconds since the epoch, UTC."""
    last_seen: float
    name: str | None = None
    uid: str = field(default_factory=lambda: uuid.uuid4().hex)
    """The same in every copy of the gallery; numbers are given anew in each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemplar:
    """One embedding of an identity."""

    exemplar_id: int
    global_id: int
    captured_at: float
    embedding_D: NDArray[np.float32]
    quality: float = 1.0
    """Larger is better; what the embedding counts when there are too many."""
    enrolled: bool = False
    """Given by the user, from images; otherwise found by the site itself."""
    sighting_id: int | None = None
    """The sighting it was taken from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SightingRow:
    """One track that is over, as evidence of who it was."""

    sighting_id: int = 0
    """0: the gallery gives it the next number."""
    uid: str = field(default_factory=lambda: uuid.uuid4().hex)
    camid: str
    track_id: int
    started_at: float
    """Seconds since the epoch, UTC."""
    ended_at: float
    global_id: int | None = None
    """None: undecided."""
    similarity: float | None = None
    """To its identity when it was matched; None for the first of an identity."""
    pictures: int = 0
    """Embedded, that is."""
    embedding_D: NDArray[np.float32] | None = None
    """Their weighted mean, unit length; None without any."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One change of the file; arrays among the values are written as the file keeps them."""

    sql: str
    values: tuple[object, ...]

    @property
    def size(self) -> int:
        """Bytes of its embedding or picture."""
        return sum(value.nbytes for value in self.values if isinstance(value, np.ndarray))

    @property
    def is_picture_of_sighting(self) -> bool:
        """Whether it adds a picture that nothing but a look at it needs; people are known by embeddings."""
        return self.sql == PUT_CROP and self.values[0] is not None


def put_identity(identity: Identity) -> Statement:
    """Add an identity."""
    row = (identity.global_id, identity.uid, identity.created_at, identity.last_seen, identity.name)
    return Statement(PUT_IDENTITY, row)


def put_exemplar(exemplar: Exemplar) -> Statement:
    """Add an exemplar, unless its identity is gone."""
    return Statement(
        PUT_EXEMPLAR,
        (
            exemplar.exemplar_id,
            exemplar.global_id,
            exemplar.sighting_id,
            exemplar.captured_at,
            exemplar.quality,
            exemplar.enrolled,
            exemplar.embedding_D,
        ),
    )


def put_sighting(row: SightingRow) -> Statement:
    """Add a sighting; one whose identity is gone is undecided."""
    return Statement(
        PUT_SIGHTING,
        (
            row.sighting_id,
            row.uid,
            row.camid,
            row.track_id,
            row.started_at,
            row.ended_at,
            row.global_id,
            row.similarity,
            row.pictures,
            row.embedding_D,
        ),
    )


def put_crop(image: bytes, *, sighting_id: int | None = None, exemplar_id: int | None = None) -> Statement:
    """Add the picture, encoded, of a sighting or of an exemplar."""
    return Statement(PUT_CROP, (sighting_id, exemplar_id, np.frombuffer(image, dtype=np.uint8)))
