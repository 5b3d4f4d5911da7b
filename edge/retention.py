"""Who is forgotten because nobody has seen them for long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from collections.abc import Collection

    from reidge.edge.gallery import Gallery
    from reidge.edge.store import Store

DAY = 86_400.0
PROBATION = 3600.0
"""Seconds over which a clock that looks wrong must go on saying so."""
NEWEST = "SELECT max(last_seen) FROM identities WHERE last_seen <= ?"
AUTOMATIC = "NOT EXISTS (SELECT 1 FROM exemplars WHERE exemplars.global_id = identities.global_id AND enrolled)"
# What bears a time yet to come is from a clock that ran ahead, or the clock of now is behind. Either way it is too old
# once something that was recorded after it is. (That one is looked for by its time: by number, it would take a walk
# through the whole table.)
OLD_PEOPLE = f"""
SELECT global_id, last_seen FROM identities WHERE last_seen < ?1 AND {AUTOMATIC}
UNION ALL
SELECT global_id, last_seen FROM identities WHERE last_seen > ?2 AND {AUTOMATIC}
    AND global_id < (SELECT max(global_id) FROM identities INDEXED BY identities_by_last_seen WHERE last_seen < ?1)
    AND NOT EXISTS (SELECT 1 FROM sightings WHERE sightings.global_id = identities.global_id)
ORDER BY last_seen LIMIT ?3
"""
OLD_ENROLLED = """
SELECT global_id, max(last_seen, max(captured_at)) AS at FROM identities JOIN exemplars USING (global_id)
WHERE enrolled GROUP BY global_id HAVING at < ?1 ORDER BY at LIMIT ?3
"""
OLD_SIGHTINGS = """
SELECT sighting_id, ended_at FROM sightings WHERE ended_at < ?1
UNION ALL
SELECT sighting_id, ended_at FROM sightings WHERE ended_at > ?2
    AND sighting_id < (SELECT max(sighting_id) FROM sightings INDEXED BY sightings_by_end WHERE ended_at < ?1)
ORDER BY ended_at LIMIT ?3
"""


class Calendar:
    """Tells whether the clock of this machine can be believed about ages.

    One that says a wrong year would have everybody forgotten. So a clock that jumps ahead by more than a day, or by
    which nobody at all was seen for a day, is believed when it has said so for an hour.
    """

    def __init__(self, newest: float | None) -> None:
        self._newest = newest
        """When anybody was last seen before this process, by what is not in the future."""
        self._offset: float | None = None
        self._doubted_at: float | None = None

    def believes(self, now: float, uptime: float) -> bool:
        """Look at the clock; to be called more often than it is asked for ages.

        Args:
            now: Seconds since the epoch, UTC.
            uptime: Seconds on a clock that nobody sets.
        """
        offset = now - uptime
        jump = now - (now if self._newest is None else self._newest) if self._offset is None else offset - self._offset
        self._offset = offset
        if jump > DAY:
            self._doubted_at = uptime
        elif jump < -DAY:
            self._doubted_at = None
        return self._doubted_at is None or uptime - self._doubted_at > PROBATION


class RetentionConfig(BaseModel, frozen=True, extra="forbid"):
    """How long somebody is remembered without being seen."""

    retention_days: float | None = Field(30.0, gt=0)
    """Identities that the site found by itself are forgotten when they were not seen for so long, and sightings that
    are older; null keeps them for ever."""
    retention_enrolled_days: float | None = Field(None, gt=0)
    """The same for people whom the user enrolled, since they were seen or enrolled last; null keeps them until they are
    erased."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """Who and what is too old."""

    identities: tuple[tuple[int, float], ...]
    """global_ids, and when each was last seen, or enrolled where that is later."""
    sightings: tuple[int, ...]
    more: bool
    """Whether there may be more than these."""


def find_expired(gallery: Gallery, config: RetentionConfig, *, now: float, limit: int) -> Expired:
    """Find who is to be forgotten, the oldest first; it is read from the file, so any thread may ask.

    Args:
        gallery: Open.
        config: How long is too long.
        now: Seconds since the epoch, UTC.
        limit: Of identities of each kind and of sightings in one answer.

    Raises:
        ReidgeError: The file cannot be read.
    """
    asked = ((OLD_PEOPLE, config.retention_days), (OLD_ENROLLED, config.retention_enrolled_days))
    people = [_find(gallery.store, sql, now, days, limit) for sql, days in asked]
    sightings = _find(gallery.store, OLD_SIGHTINGS, now, config.retention_days, limit)
    return Expired(
        identities=tuple(pair for pairs in people for pair in pairs),
        sightings=tuple(number for number, _ in sightings),
        more=limit in map(len, (*people, sightings)),
    )


def count_expired(store: Store, config: RetentionConfig, *, now: float) -> tuple[int, int]:
    """How many identities and sightings are to be forgotten.

    Raises:
        ReidgeError: The file cannot be read.
    """
    asked = (
        (OLD_PEOPLE, config.retention_days),
        (OLD_ENROLLED, config.retention_enrolled_days),
        (OLD_SIGHTINGS, config.retention_days),
    )
    all_of_them = -1  # as SQLite's LIMIT has it
    found = [len(_find(store, sql, now, days, all_of_them)) for sql, days in asked]
    return found[0] + found[1], found[2]


def forget_expired(gallery: Gallery, expired: Expired, *, keep: Collection[int] = ()) -> list[int]:
    """Forget them, without tombstones: who comes back is somebody new.

    Args:
        gallery: Open.
        expired: Who is too old by the file.
        keep: Identities that are in view at this moment.

    Returns:
        The identities that were forgotten; the sightings are, all of them.
    """
    gone = []
    for global_id, at in expired.identities:
        if global_id not in keep and _last_known(gallery, global_id) == at:  # nothing came of them meanwhile
            gallery.forget(global_id, tombstone=False)
            gone.append(global_id)
    if expired.sightings:
        gallery.forget_sightings(expired.sightings, tombstone=False)
    return gone


def _last_known(gallery: Gallery, global_id: int) -> float | None:
    """When somebody was last seen, or enrolled where that is later; None where there is nobody of that number."""
    last_seen = gallery.last_seen(global_id)
    if last_seen is None:
        return None
    return max([last_seen, *(exemplar.captured_at for exemplar in gallery.exemplars(global_id) if exemplar.enrolled)])


def _find(store: Store, sql: str, now: float, days: float | None, limit: int) -> list[tuple[int, float]]:
    if days is None:
        return []
    return [(number, at) for number, at in store.read(sql, (now - DAY * days, now + DAY, limit))]
