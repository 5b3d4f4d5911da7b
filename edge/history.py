"""Merges and splits as the gallery's file remembers them: enough to take a merge back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reidge.edge.errors import InputError
from reidge.edge.records import Identity, Statement

if TYPE_CHECKING:
    from collections.abc import Collection

    from reidge.edge.store import Store

# What was whose before is read by the file itself: it knows sightings that memory does not.
NOTE_MERGE = """
INSERT INTO history (at, action, global_id, other_id, detail)
SELECT ?3, 'merge', ?1, ?2, json_object(
    'uid', b.uid, 'created_at', b.created_at, 'last_seen', b.last_seen, 'name', b.name,
    'kept_name', a.name, 'kept_last_seen', a.last_seen,
    'exemplars', (SELECT json_group_array(exemplar_id) FROM exemplars WHERE global_id = ?2),
    'sightings', (SELECT json_group_array(sighting_id) FROM sightings WHERE global_id = ?2))
FROM identities a, identities b WHERE a.global_id = ?1 AND b.global_id = ?2
"""
NOTE_SPLIT = "INSERT INTO history (at, action, global_id, other_id, detail) VALUES (?, 'split', ?, ?, ?)"
# Names are for taking a merge back; after that they would outlive those that the user takes away.
UNDO = """
UPDATE history SET undone_at = ?2, detail = json_remove(detail, '$.name', '$.kept_name') WHERE history_id = ?1
"""
LAST_MERGE = """
SELECT history_id, global_id, detail FROM history
WHERE action = 'merge' AND other_id = ? AND undone_at IS NULL ORDER BY 1 DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """One identity was made part of another."""

    history_id: int
    kept: int
    """The identity that it is part of now, also where that one was merged since."""
    absorbed: Identity
    """As it was before."""
    kept_name: str | None
    """Name of the other before."""
    kept_last_seen: float
    exemplars: frozenset[int]
    """That belonged to the absorbed one."""
    sightings: frozenset[int]


def explain_missing(store: Store, global_id: int) -> InputError:
    """What to say of an identity that there is none of: where it went, if that is known."""
    found = store.read(LAST_MERGE, (global_id,))
    where = f"; {global_id} was merged into {found[0][1]}" if found else ""
    return InputError(f"there is no identity {global_id} in {store.path}{where}. See: reidge gallery list")


def note_merge(at: float, *, kept: int, absorbed: int) -> Statement:
    """Remember a merge, before it is made."""
    return Statement(NOTE_MERGE, (kept, absorbed, at))


def note_split(at: float, *, made: int, split_from: int, sighting_ids: Collection[int]) -> Statement:
    """Remember a split."""
    return Statement(NOTE_SPLIT, (at, made, split_from, json.dumps({"sightings": sorted(sighting_ids)})))


def undo(at: float, merge: Merge) -> Statement:
    """Remember that a merge was taken back."""
    return Statement(UNDO, (merge.history_id, at))


def last_merge(store: Store, absorbed: int, *, standing: Collection[int]) -> Merge:
    """The merge by which an identity went.

    Args:
        store: The file; it must say everything.
        absorbed: The identity.
        standing: Identities that there are.

    Raises:
        InputError: It was not merged, or whom it went to is gone.
    """
    found = store.read(LAST_MERGE, (absorbed,))
    if not found:
        raise InputError(f"identity {absorbed} was not merged into another one of {store.path}.")
    history_id, kept, text = found[0]
    detail = json.loads(text)
    if kept not in standing:
        kept = last_merge(store, kept, standing=standing).kept
    return Merge(
        history_id=history_id,
        kept=kept,
        absorbed=Identity(
            global_id=absorbed,
            created_at=detail["created_at"],
            last_seen=detail["last_seen"],
            name=detail["name"],
            uid=detail["uid"],
        ),
        kept_name=detail["kept_name"],
        kept_last_seen=detail["kept_last_seen"],
        exemplars=frozenset(detail["exemplars"]),
        sightings=frozenset(detail["sightings"]),
    )
