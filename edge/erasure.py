"""How somebody is forgotten: what leaves the gallery's file, and what stays so that it never comes back.

SQLite overwrites what is deleted (`secure_delete`); an emptied journal then holds none of it either. What stays of an
identity is a tombstone: its uid, those of the identities that were merged into it, and those of their sightings.
Numbers without a face, by which a backup from before is told whom not to bring back.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from reidge.edge.records import Statement

if TYPE_CHECKING:
    from collections.abc import Collection

FAMILY = """
WITH RECURSIVE family (number, uid) AS (
    SELECT global_id, uid FROM identities WHERE global_id = ?1
    UNION
    SELECT history.other_id, json_extract(history.detail, '$.uid') FROM history
    JOIN family ON history.global_id = family.number
    WHERE history.action = 'merge' AND history.undone_at IS NULL
)
"""
"""An identity and all that were merged into it, by numbers and uids."""
BURY_IDENTITY = f"{FAMILY} INSERT OR REPLACE INTO tombstones SELECT uid, 'identity', ?2 FROM family"
BURY_ITS_SIGHTINGS = """
INSERT OR REPLACE INTO tombstones SELECT uid, 'sighting', ?2 FROM sightings WHERE global_id = ?1
"""
DROP_HISTORY = f"""
{FAMILY} DELETE FROM history
WHERE global_id IN (SELECT number FROM family) OR other_id IN (SELECT number FROM family)
"""
DROP_ITS_SIGHTINGS = "DELETE FROM sightings WHERE global_id = ?"
DROP_IDENTITY = "DELETE FROM identities WHERE global_id = ?"
BURY_SIGHTINGS = """
INSERT OR REPLACE INTO tombstones
SELECT uid, 'sighting', ?2 FROM sightings WHERE sighting_id IN (SELECT value FROM json_each(?1))
"""
DROP_EXEMPLARS_FROM = "DELETE FROM exemplars WHERE sighting_id IN (SELECT value FROM json_each(?))"
DROP_SIGHTINGS = "DELETE FROM sightings WHERE sighting_id IN (SELECT value FROM json_each(?))"
BURY = "INSERT OR REPLACE INTO tombstones (uid, kind, erased_at) VALUES (?, ?, ?)"


def forget_identity(global_id: int, *, erased_at: float | None) -> list[Statement]:
    """Delete an identity with its exemplars, sightings, pictures and history; with a time, its tombstones stay."""
    buried = (
        [] if erased_at is None else [Statement(s, (global_id, erased_at)) for s in (BURY_IDENTITY, BURY_ITS_SIGHTINGS)]
    )
    return [*buried, *(Statement(s, (global_id,)) for s in (DROP_HISTORY, DROP_ITS_SIGHTINGS, DROP_IDENTITY))]


def forget_sightings(sighting_ids: Collection[int], *, erased_at: float | None) -> list[Statement]:
    """Delete sightings with their pictures; with a time, their exemplars go too and their tombstones stay."""
    marks = json.dumps(sorted(sighting_ids))
    buried = []
    if erased_at is not None:
        buried = [Statement(BURY_SIGHTINGS, (marks, erased_at)), Statement(DROP_EXEMPLARS_FROM, (marks,))]
    return [*buried, Statement(DROP_SIGHTINGS, (marks,))]
