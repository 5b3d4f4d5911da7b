"""Who looked for whom, named, erased or took away: a list in the gallery's file.

It holds numbers and counts, never a name, a picture or an embedding: what is erased must not live on here.
"""

from __future__ import annotations

import json
import os
import pwd
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reidge.edge.records import Statement

if TYPE_CHECKING:
    from collections.abc import Iterable

PUT = "INSERT INTO audit (at, actor, action, subject, detail) VALUES (?, ?, ?, ?, ?)"
NEWEST = "SELECT at, actor, action, subject, detail FROM audit ORDER BY audit_id DESC LIMIT ?"
PARTED = "SELECT action, subject FROM audit WHERE action IN ('split', 'unmerge', 'merge') ORDER BY audit_id"
RETENTION = "retention"
"""The actor where a site removes what is too old by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One thing that somebody did."""

    at: float
    """Seconds since the epoch, UTC."""
    actor: str
    """User of the operating system."""
    action: str
    subject: str | None
    """Numbers of the identities or sightings it was about."""
    detail: dict[str, Any]


def current_user() -> str:
    """The user this process runs as, and who became it by sudo; the environment says nothing else."""
    uid = os.getuid()
    name = _name_of(uid)
    sudo = os.environ.get("SUDO_UID", "") if uid == 0 else ""
    return f"{name} (sudo by {_name_of(int(sudo))})" if sudo.isdecimal() else name


def note(action: str, *, actor: str, subject: Iterable[int] = (), **detail: Any) -> Statement:
    """Put something on the list."""
    about = ", ".join(str(number) for number in subject) or None
    return Statement(PUT, (time.time(), actor, action, about, json.dumps(detail)))


def entries(rows: Iterable[tuple[Any, ...]]) -> list[AuditEntry]:
    """Read what `NEWEST` selects."""
    return [
        AuditEntry(at=at, actor=actor, action=action, subject=subject, detail=json.loads(detail or "{}"))
        for at, actor, action, subject, detail in rows
    ]


def taken_apart(rows: Iterable[tuple[str, str]]) -> set[frozenset[int]]:
    """Pairs of identities that a user took apart and did not merge again, from what `PARTED` selects."""
    pairs: set[frozenset[int]] = set()
    for action, subject in rows:
        pair = frozenset(int(number) for number in subject.split(", "))
        if action == "merge":
            pairs.discard(pair)
        else:
            pairs.add(pair)
    return pairs


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # containers run as users that have no name
        return str(uid)
