"""A whole gallery into an archive, and an archive into a gallery, so that nobody comes back who was erased.

Tombstones count both ways: whom this gallery forgot is left out of an archive from before, and whom the archive's
gallery forgot is forgotten here. What is here already stays as it is; only what is missing is added.
"""

# M = exemplars, N = sightings with an embedding, D = embedding

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge import audit, records
from reidge.edge.archive import (
    Archive,
    CropEntry,
    ExemplarEntry,
    IdentityEntry,
    SightingEntry,
    TombstoneEntry,
)
from reidge.edge.erasure import BURY, forget_identity, forget_sightings
from reidge.edge.errors import InputError
from reidge.edge.records import Exemplar, Identity, SightingRow, Statement

if TYPE_CHECKING:
    from reidge.edge.store import Store

MERGES = """
SELECT global_id, other_id, json_extract(detail, '$.uid') FROM history
WHERE action = 'merge' AND undone_at IS NULL ORDER BY history_id
"""
ITS_SIGHTINGS = "SELECT uid FROM sightings WHERE global_id = ?"


def pack(store: Store) -> Archive:
    """Read everything of one moment, while others may write.

    Raises:
        InputError: The file is damaged.
    """
    with store.snapshot():
        identities, sightings, images = store.identities(), store.sightings("1"), store.images("1")
        blocks = list(store.exemplars())
        merges = store.read(MERGES)
        tombstones = store.read("SELECT uid, kind, erased_at FROM tombstones ORDER BY erased_at, uid")
        (encoder,) = store.read("SELECT value FROM meta WHERE key = 'encoder'")[0]
    uids = {identity.global_id: identity.uid for identity in identities}
    passes = {row.sighting_id: row.uid for row in sightings}
    embedded = [row for row in sightings if row.embedding_D is not None]
    rows = {row.sighting_id: i for i, row in enumerate(embedded)}
    lines = {number: i for i, number in enumerate(n for block in blocks for n in block.exemplar_ids_M.tolist())}
    absorbed = _absorbed(merges)
    empty_0D = np.empty((0, store.embedding_dim), dtype=np.float32)
    return Archive(
        encoder=encoder,
        embedding_dim=store.embedding_dim,
        made_at=time.time(),
        identities=[
            IdentityEntry(
                uid=identity.uid,
                number=identity.global_id,
                created_at=identity.created_at,
                last_seen=identity.last_seen,
                name=identity.name,
                absorbed=tuple(absorbed.get(identity.global_id, ())),
            )
            for identity in identities
        ],
        sightings=[
            SightingEntry(
                uid=row.uid,
                identity=None if row.global_id is None else uids[row.global_id],
                camid=row.camid,
                track_id=row.track_id,
                started_at=row.started_at,
                ended_at=row.ended_at,
                similarity=row.similarity,
                pictures=row.pictures,
                row=rows.get(row.sighting_id),
            )
            for row in sightings
        ],
        sightings_ND=np.array([row.embedding_D for row in embedded], dtype=np.float32).reshape(-1, store.embedding_dim),
        exemplars=[
            ExemplarEntry(
                identity=uids[global_id], sighting=passes.get(sighting_id), captured_at=at, quality=quality,
                enrolled=enrolled,
            )
            for block in blocks
            for global_id, sighting_id, at, quality, enrolled in zip(
                block.global_ids_M.tolist(), block.sighting_ids_M.tolist(), block.captured_at_M.tolist(),
                block.quality_M.tolist(), block.enrolled_M.tolist(), strict=True,
            )
        ],
        exemplars_MD=np.concatenate([empty_0D, *(block.embeddings_MD for block in blocks)]),
        crops=[
            CropEntry(
                sighting=None if sighting_id is None else passes[sighting_id],
                exemplar=lines[exemplar_id] if sighting_id is None and exemplar_id is not None else None,
            )
            for sighting_id, exemplar_id, _ in images
        ],
        images=[image for _, _, image in images],
        tombstones=[TombstoneEntry(uid=uid, kind=kind, erased_at=at) for uid, kind, at in tombstones],
    )  # fmt: skip


def _absorbed(merges: list[tuple[int, int, str]]) -> dict[int, list[str]]:
    """By global_id: uids of those that were merged into it, at first or second hand."""
    absorbed: dict[int, list[str]] = {}
    for kept, other, uid in merges:
        absorbed.setdefault(kept, []).extend([uid, *absorbed.pop(other, ())])
    return absorbed


@dataclass(slots=True, kw_only=True)
class Intake:
    """What came of an import."""

    identities: int = 0
    """Added."""
    known: int = 0
    """Here already, at least under another number."""
    erased_before: int = 0
    """Left out: they were erased here."""
    erased_here: int = 0
    """Forgotten here: they were erased where the archive comes from."""
    sightings_erased_here: int = 0
    """The same of sightings by themselves."""
    sightings: int = 0
    exemplars: int = 0
    pictures: int = 0
    renumbered: dict[int, int] = field(default_factory=dict)
    """Numbers in the archive, and here, where they differ."""


def check_encoder(archive: Archive, encoder_hash: str) -> None:
    """See to it that an archive goes together with a gallery.

    Raises:
        InputError: It is of another encoder.
    """
    if archive.encoder != encoder_hash:
        raise InputError(
            f"the archive holds embeddings of another encoder ({archive.encoder[:12]}..., the gallery has "
            f"{encoder_hash[:12]}...). Import it into a gallery of that encoder, and re-embed that one."
        )


def take_in(store: Store, archive: Archive, *, by: str) -> Intake:
    """Add to a gallery what an archive has and it lacks, in one go: all of it or nothing.

    Raises:
        InputError: The archive is of another encoder.
        ReidgeError: The file cannot be written.
    """
    check_encoder(archive, dict(store.read("SELECT key, value FROM meta"))["encoder"])
    taking = _Taking(store, archive)
    taking.forget()
    taking.add_identities()
    taking.add_sightings()
    taking.add_exemplars()
    taking.add_crops()
    done = taking.done
    note = audit.note("import", actor=by, identities=done.identities, exemplars=done.exemplars, erased=done.erased_here)
    store.write([*taking.statements, note])
    if done.erased_here or done.sightings_erased_here:
        store.flush_journal()
    return done


class _Taking:
    """One import under way: what is here, what the archive brings, and the statements that come of it."""

    def __init__(self, store: Store, archive: Archive) -> None:
        self.archive, self.store = archive, store
        self.done = Intake()
        self.statements: list[Statement] = []
        self._last = store.last_numbers()
        self._graves = {uid for (uid,) in store.read("SELECT uid FROM tombstones")}
        self._here = {identity.uid: identity for identity in store.identities()}
        self._sightings = dict(store.read("SELECT uid, sighting_id FROM sightings"))
        self._new_sightings: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        """Identities of the archive that may be here, by uid."""
        self._new_exemplars: dict[int, int] = {}
        """Lines of the archive, and their exemplar_ids."""

    def forget(self) -> None:
        """Erase here whom the archive's gallery has erased, as a whole where they are part of somebody by now."""
        now = time.time()
        part_of, absorbed = self._merged(), _absorbed(self.store.read(MERGES))
        uids = {identity.global_id: uid for uid, identity in self._here.items()}
        for entry in sorted(self.archive.tombstones, key=lambda entry: entry.kind != "identity"):
            whole = uids[part_of[entry.uid]] if entry.uid in part_of else entry.uid
            if whole in self._here:
                number = self._here.pop(whole).global_id
                self.statements += forget_identity(number, erased_at=now)
                self._graves |= {whole, *absorbed.get(number, ())}
                its_sightings = {uid for (uid,) in self.store.read(ITS_SIGHTINGS, (number,))}
                self._graves |= its_sightings
                self._sightings = {uid: row for uid, row in self._sightings.items() if uid not in its_sightings}
                self.done.erased_here += 1
            if entry.uid in self._sightings:
                self.statements += forget_sightings([self._sightings.pop(entry.uid)], erased_at=now)
                self.done.sightings_erased_here += 1
        self.statements += [Statement(BURY, (e.uid, e.kind, e.erased_at)) for e in self.archive.tombstones]
        self._graves |= {entry.uid for entry in self.archive.tombstones}

    def add_identities(self) -> None:
        """Find everybody of the archive here, or add them, under their numbers where those were never given here."""
        merged = self._merged()
        last = self._last["identities"]
        newest = max([last, *(entry.number for entry in self.archive.identities)])
        for entry in self.archive.identities:
            if not self._graves.isdisjoint((entry.uid, *entry.absorbed)):
                self.done.erased_before += 1
                continue
            number = self._here[entry.uid].global_id if entry.uid in self._here else merged.get(entry.uid)
            if number is None:
                number = entry.number
                if number <= last:
                    newest = number = newest + 1
                identity = Identity(
                    global_id=number, created_at=entry.created_at, last_seen=entry.last_seen, name=entry.name,
                    uid=entry.uid,
                )  # fmt: skip
                self.statements.append(records.put_identity(identity))
                self.done.identities += 1
            else:
                self.statements.append(Statement(records.SEE_IDENTITY, (number, entry.last_seen)))
                self.done.known += 1
            self._numbers[entry.uid] = number
            if number != entry.number:
                self.done.renumbered[entry.number] = number

    def add_sightings(self) -> None:
        """Add sightings that are not here, of everybody who is; undecided ones too."""
        for entry in self.archive.sightings:
            of_nobody = entry.identity is not None and entry.identity not in self._numbers
            if entry.uid in self._sightings or entry.uid in self._graves or of_nobody:
                continue
            self._last["sightings"] += 1
            self._new_sightings[entry.uid] = self._last["sightings"]
            row = SightingRow(
                sighting_id=self._last["sightings"],
                uid=entry.uid,
                camid=entry.camid,
                track_id=entry.track_id,
                started_at=entry.started_at,
                ended_at=entry.ended_at,
                global_id=None if entry.identity is None else self._numbers[entry.identity],
                similarity=entry.similarity,
                pictures=entry.pictures,
                embedding_D=None if entry.row is None else self.archive.sightings_ND[entry.row],
            )
            self.statements.append(records.put_sighting(row))
            self.done.sightings += 1

    def add_exemplars(self) -> None:
        """Add exemplars of sightings that are new, and enrolled ones that are not here yet."""
        known = self._known_exemplars()
        for line, (entry, embedding_D) in enumerate(
            zip(self.archive.exemplars, self.archive.exemplars_MD, strict=True)
        ):
            number = self._numbers.get(entry.identity)
            if number is None or (entry.sighting is not None and entry.sighting not in self._new_sightings):
                continue
            if entry.sighting is None and (number, entry.captured_at, embedding_D.tobytes()) in known:
                continue
            self._last["exemplars"] += 1
            self._new_exemplars[line] = self._last["exemplars"]
            exemplar = Exemplar(
                exemplar_id=self._last["exemplars"],
                global_id=number,
                captured_at=entry.captured_at,
                embedding_D=embedding_D,
                quality=entry.quality,
                enrolled=entry.enrolled,
                sighting_id=None if entry.sighting is None else self._new_sightings[entry.sighting],
            )
            self.statements.append(records.put_exemplar(exemplar))
            self.done.exemplars += 1

    def add_crops(self) -> None:
        """Add the pictures of what was added."""
        for entry, image in zip(self.archive.crops, self.archive.images, strict=True):
            sighting_id = None if entry.sighting is None else self._new_sightings.get(entry.sighting)
            exemplar_id = None if entry.exemplar is None else self._new_exemplars.get(entry.exemplar)
            if sighting_id is not None or exemplar_id is not None:
                self.statements.append(records.put_crop(image, sighting_id=sighting_id, exemplar_id=exemplar_id))
                self.done.pictures += 1

    def _merged(self) -> dict[str, int]:
        """By uid: the number of whom somebody is part of here by now."""
        here = {identity.global_id for identity in self._here.values()}
        return {uid: kept for kept, uids in _absorbed(self.store.read(MERGES)).items() for uid in uids if kept in here}

    def _known_exemplars(self) -> set[tuple[int, float, bytes]]:
        """Exemplars here that come from no sighting."""
        return {
            (int(block.global_ids_M[i]), float(block.captured_at_M[i]), block.embeddings_MD[i].tobytes())
            for block in self.store.exemplars()
            for i in np.flatnonzero(block.sighting_ids_M == 0)
        }
