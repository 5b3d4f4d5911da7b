"""What there is to say about a gallery: who is in it, what is known of one person, how much it holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reidge.edge.history import explain_missing

if TYPE_CHECKING:
    from reidge.edge.store import Store

PEOPLE = """
SELECT global_id, name, created_at, last_seen,
    (SELECT count(*) FROM sightings WHERE sightings.global_id = identities.global_id),
    (SELECT count(*) FROM exemplars WHERE exemplars.global_id = identities.global_id),
    (SELECT count(*) FROM exemplars WHERE exemplars.global_id = identities.global_id AND enrolled)
FROM identities
"""
PASSES = """
SELECT sighting_id, camid, track_id, started_at, ended_at, similarity, pictures, global_id,
    EXISTS (SELECT 1 FROM exemplars WHERE exemplars.sighting_id = sightings.sighting_id),
    EXISTS (SELECT 1 FROM crops WHERE crops.sighting_id = sightings.sighting_id)
FROM sightings
"""
COUNTED = {
    "identities": "identities",
    "named": "identities WHERE name IS NOT NULL",
    "enrolled": "identities WHERE global_id IN (SELECT global_id FROM exemplars WHERE enrolled)",
    "exemplars": "exemplars",
    "sightings": "sightings",
    "undecided": "sightings WHERE global_id IS NULL",
    "pictures": "crops",
    "erased": "tombstones WHERE kind = 'identity'",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One line about an identity."""

    global_id: int
    name: str | None
    created_at: float
    """Seconds since the epoch, UTC."""
    last_seen: float
    """By a camera; of somebody enrolled whom none has seen yet, `created_at`."""
    sightings: int
    exemplars: int
    enrolled: int
    """Exemplars that come from pictures a user gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One line about a sighting."""

    sighting_id: int
    camid: str
    track_id: int
    started_at: float
    ended_at: float
    similarity: float | None
    pictures: int
    global_id: int | None
    exemplar: bool
    """Whether it gave the identity an exemplar."""
    picture: bool
    """Whether a picture of it is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A merge or a split that an identity took part in."""

    at: float
    action: str
    global_id: int
    other_id: int | None
    undone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything about one identity."""

    person: Person
    sightings: tuple[Pass, ...]
    """Newest first."""
    history: tuple[Step, ...]
    """Newest first."""


def list_people(store: Store, *, named: bool, limit: int) -> list[Person]:
    """List identities, those who were seen last first; only those with a name where `named`."""
    where = "WHERE name IS NOT NULL" if named else ""
    return _people(store, f"{where} ORDER BY last_seen DESC, global_id DESC LIMIT ?", limit)


def list_undecided(store: Store, *, limit: int) -> list[Pass]:
    """List sightings that belong to no identity, newest first."""
    return _passes(store, "WHERE global_id IS NULL ORDER BY ended_at DESC, sighting_id DESC LIMIT ?", limit)


def show_person(store: Store, global_id: int, *, limit: int) -> Record:
    """Tell everything about one identity, with at most `limit` of its sightings.

    Raises:
        InputError: There is no such identity; where it went, if that is known.
    """
    people = _people(store, "WHERE global_id = ?", global_id)
    if not people:
        raise explain_missing(store, global_id)
    steps = store.read(
        "SELECT at, action, global_id, other_id, undone_at IS NOT NULL FROM history "
        "WHERE global_id = ?1 OR other_id = ?1 ORDER BY history_id DESC",
        (global_id,),
    )
    return Record(
        person=people[0],
        sightings=tuple(
            _passes(store, "WHERE global_id = ? ORDER BY ended_at DESC, sighting_id DESC LIMIT ?", global_id, limit)
        ),
        history=tuple(
            Step(at=at, action=action, global_id=one, other_id=other, undone=bool(undone))
            for at, action, one, other, undone in steps
        ),
    )


def count(store: Store) -> dict[str, Any]:
    """How much a gallery holds, and between which times."""
    figures: dict[str, Any] = {name: store.read(f"SELECT count(*) FROM {what}")[0][0] for name, what in COUNTED.items()}
    first, last = store.read("SELECT min(created_at), max(last_seen) FROM identities")[0]
    meta = dict(store.read("SELECT key, value FROM meta"))
    return figures | {
        "first_created": first,
        "last_seen": last,
        "embedding_dim": int(meta["embedding_dim"]),
        "encoder": meta["encoder"],
        "encryption": json.loads(meta["cipher"])["kind"] if "cipher" in meta else None,
        "schema": int(meta["schema"]),
    }


def _people(store: Store, clause: str, *values: object) -> list[Person]:
    return [
        Person(
            global_id=global_id,
            name=name,
            created_at=created_at,
            last_seen=last_seen,
            sightings=sightings,
            exemplars=exemplars,
            enrolled=enrolled,
        )
        for global_id, name, created_at, last_seen, sightings, exemplars, enrolled in store.read(
            f"{PEOPLE} {clause}", values
        )
    ]


def _passes(store: Store, clause: str, *values: object) -> list[Pass]:
    return [
        Pass(
            sighting_id=row[0],
            camid=row[1],
            track_id=row[2],
            started_at=row[3],
            ended_at=row[4],
            similarity=row[5],
            pictures=row[6],
            global_id=row[7],
            exemplar=bool(row[8]),
            picture=bool(row[9]),
        )
        for row in store.read(f"{PASSES} {clause}", values)
    ]
