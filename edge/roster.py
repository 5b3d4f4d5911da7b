"""Who there is: identities with their exemplars in memory, and every change of them and of their sightings."""

# D = embedding, M = exemplars of an identity

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge import history, records
from reidge.edge.erasure import forget_identity, forget_sightings
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.followed import WRITE_SECONDS, Followed
from reidge.edge.index import Index
from reidge.edge.records import Exemplar, Identity, SightingRow, Statement

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from reidge.edge.store import Store

OWN_AMONG = "global_id = ? AND sighting_id IN (SELECT value FROM json_each(?))"
OWN_BESIDE = "global_id = ? AND sighting_id NOT IN (SELECT value FROM json_each(?))"


class Roster(Followed):
    """Identities and their exemplars, which a file follows; its sightings are in the file only.

    Every change is made in memory at once, and is one transaction of the file.

    Args:
        store: The file.
        max_exemplars: Kept of each identity.

    Raises:
        InputError: The file is damaged.
    """

    def __init__(self, store: Store, *, max_exemplars: int) -> None:
        super().__init__(store)
        self._max_exemplars = max_exemplars
        self._index = Index(store.embedding_dim)
        self._unwritten: dict[int, tuple[int, SightingRow]] = {}
        with store.snapshot():  # beside a site that runs, somebody may come between two questions
            self._identities = {identity.global_id: identity for identity in store.identities()}
            self._last = store.last_numbers()
            self._index.reserve(store.read("SELECT count(*) FROM exemplars")[0][0])
            for block in store.exemplars():
                self._index.load(block)
        self._index.choose()

    def __len__(self) -> int:
        return len(self._identities)

    def __contains__(self, global_id: object) -> bool:
        return global_id in self._identities

    # What is there

    def identities(self) -> list[int]:
        """All global_ids, ascending."""
        return sorted(self._identities)

    def identity(self, global_id: int) -> Identity:
        """What is known of an identity besides its exemplars.

        Raises:
            InputError: There is no such identity.
        """
        self._require(global_id)
        return replace(self._identities[global_id])

    def last_seen(self, global_id: int) -> float | None:
        """When an identity was last seen; None where there is no such identity."""
        identity = self._identities.get(global_id)
        return None if identity is None else identity.last_seen

    def exemplars(self, global_id: int) -> list[Exemplar]:
        """All exemplars of an identity, oldest first."""
        return [self._index.exemplar(row) for row in self._index.rows_of(global_id)]

    def sightings(
        self, *, since: float | None = None, until: float | None = None, global_id: int | None = None
    ) -> list[SightingRow]:
        """Sightings that ended at or after `since` and before `until`, of one identity or of all, oldest first.

        They are read from the file, after waiting a moment for what is not written yet; where the disk is in trouble,
        the decisions of that moment may be missing.
        """
        self.flush(WRITE_SECONDS)
        asked = (("ended_at >= ?", since), ("ended_at < ?", until), ("global_id = ?", global_id))
        where = [(clause, value) for clause, value in asked if value is not None]
        return self.store.sightings(" AND ".join(clause for clause, _ in where) or "1", [value for _, value in where])

    def own_among(self, global_id: int, sighting_ids: Collection[int]) -> dict[int, SightingRow]:
        """Those of some sightings that are an identity's, by number.

        The file may be behind; of a sighting that has an exemplar, memory knows better whose it is.

        Raises:
            ReidgeError: The file cannot be read.
        """
        self.settle()
        marks = json.dumps(sorted(sighting_ids))
        rows = self.store.sightings("sighting_id IN (SELECT value FROM json_each(?))", (marks,))
        known = {row.sighting_id: row for row in rows}
        known |= {i: self._unwritten[i][1] for i in sighting_ids if i in self._unwritten and i not in known}
        return {i: row for i, row in known.items() if self._owner(row) == global_id}

    def settle(self) -> None:
        """Let the file catch up, as long as the disk is fast, and let go of the sightings that it has."""
        super().settle()
        self._drop_written()

    # What is remembered

    def check(self, embedding_D: NDArray[np.float32]) -> None:
        """See whether an embedding can be remembered.

        Raises:
            InputError: It has another length, or numbers that are none.
        """
        if embedding_D.shape != (self.store.embedding_dim,):
            raise InputError(
                f"an embedding of this gallery has {self.store.embedding_dim} numbers, got {embedding_D.shape}."
            )
        if not np.isfinite(embedding_D).all():
            raise InputError("an embedding has infinite numbers or none at all. Leave its picture out.")

    def enrol(
        self,
        embedding_D: NDArray[np.float32],
        *,
        captured_at: float,
        global_id: int | None = None,
        quality: float = 1.0,
        enrolled: bool = False,
        name: str | None = None,
        sighting_id: int | None = None,
        crop: bytes | None = None,
    ) -> int:
        """Remember an embedding, of a known identity or of a new one.

        Args:
            embedding_D: Unit length.
            captured_at: Seconds since the epoch, UTC.
            global_id: The identity; None makes a new one.
            quality: Larger is better.
            enrolled: The user gave the image.
            name: Of the identity from now on; None leaves it as it is.
            sighting_id: The recorded sighting that the embedding is from.
            crop: The picture, encoded, to be kept with it.

        Returns:
            The identity's global_id.

        Raises:
            InputError: There is no identity `global_id`, or the embedding has another length.
        """
        self.check(embedding_D)
        statements: list[Statement] = []
        if global_id is None:
            global_id = self._new_identity(captured_at, statements)
        self._require(global_id)
        if not enrolled:  # a picture that a user gives shows nobody to a camera
            self._see(global_id, captured_at, statements)
        if name is not None:
            self._name(global_id, name, statements)
        exemplar = Exemplar(
            exemplar_id=self._next("exemplars"),
            global_id=global_id,
            captured_at=captured_at,
            embedding_D=np.array(embedding_D, dtype=np.float32),
            quality=quality,
            enrolled=enrolled,
            sighting_id=sighting_id,
        )
        self._add(exemplar, statements)
        if crop is not None:
            statements.append(records.put_crop(crop, exemplar_id=exemplar.exemplar_id))
        self._thin_out(global_id, statements)
        self.keep(statements)
        return global_id

    def begin(self, embedding_D: NDArray[np.float32], *, at: float, quality: float) -> tuple[int, int]:
        """Make an identity of somebody whose track is not over.

        What is remembered stands in until the sighting is recorded, so that whoever was told of the identity finds it
        again even if the process ends before; then it is to be let go of.

        Args:
            embedding_D: Unit length.
            at: When they were seen; seconds since the epoch, UTC.
            quality: Larger is better.

        Returns:
            The global_id, and the exemplar_id of what stands in.
        """
        global_id = self.enrol(embedding_D, captured_at=at, quality=quality)
        return global_id, self._last["exemplars"]

    def let_go(self, exemplar_id: int) -> None:
        """Forget an exemplar, if it is still there."""
        for row in np.flatnonzero(self._index.exemplar_ids_M == exemplar_id):
            self.keep([Statement(records.DROP_EXEMPLAR, (self._index.drop(int(row)),))])

    def record(self, sighting: SightingRow, *, crop: bytes | None = None) -> int:
        """Keep a sighting that is over, with a picture if there is one, encoded.

        Returns:
            Its sighting_id.

        Raises:
            InputError: There is no such identity, or the embedding has another length.
        """
        if sighting.global_id is not None:
            self._require(sighting.global_id)
        if sighting.embedding_D is not None:
            self.check(sighting.embedding_D)
        if sighting.sighting_id == 0:
            sighting = replace(sighting, sighting_id=self._next("sightings"))
        else:
            self._last["sightings"] = max(self._last["sightings"], sighting.sighting_id)
        statements = [records.put_sighting(sighting)]
        if crop is not None:
            statements.append(records.put_crop(crop, sighting_id=sighting.sighting_id))
        if sighting.global_id is not None:
            self._see(sighting.global_id, sighting.ended_at, statements)
        self.keep(statements)
        if self._keeper is not None:
            self._unwritten[sighting.sighting_id] = (self.mark(), sighting)
            self._drop_written()
        return sighting.sighting_id

    def assign(self, sighting_id: int, global_id: int | None, similarity: float | None = None) -> None:
        """Decide anew who a recorded sighting was; its exemplar, where it has one, goes along.

        Args:
            sighting_id: A recorded sighting.
            global_id: The identity; None: undecided, and its exemplar is dropped.
            similarity: To that identity.

        Raises:
            InputError: There is no identity `global_id`.
        """
        statements: list[Statement] = []
        if global_id is not None:
            self._require(global_id)
        statements.append(Statement(records.ASSIGN_SIGHTING, (sighting_id, global_id, similarity)))
        self._give_unwritten([sighting_id], global_id)
        for row in sorted(self._index.rows_from(sighting_id), reverse=True):
            if global_id is None:
                statements.append(Statement(records.DROP_EXEMPLAR, (self._index.drop(row),)))
            else:
                self._see(global_id, self._index.exemplar(row).captured_at, statements)
                statements.append(Statement(records.MOVE_EXEMPLAR, (self._index.move(row, global_id), global_id)))
        if global_id is not None:
            self._thin_out(global_id, statements)
        self.keep(statements)

    def rename(self, global_id: int, name: str | None) -> None:
        """Give an identity a name, or take it away.

        Raises:
            InputError: There is no such identity.
        """
        self._require(global_id)
        statements: list[Statement] = []
        self._name(global_id, name, statements)
        self.keep(statements)

    # What is one, what is two

    def merge(self, *, kept: int, absorbed: int) -> None:
        """Make two identities one; `unmerge` takes it back.

        Raises:
            InputError: One of them does not exist, or they are the same.
        """
        if kept == absorbed:
            raise InputError(f"identity {kept} cannot be merged with itself.")
        self._require(kept)
        self._require(absorbed)
        statements = [history.note_merge(time.time(), kept=kept, absorbed=absorbed)]
        seen = not self._never_seen(absorbed)
        gone = self._identities.pop(absorbed)
        if seen:
            self._see(kept, gone.last_seen, statements)
        if self._identities[kept].name is None and gone.name is not None:
            self._name(kept, gone.name, statements)
        for row in self._index.rows_of(absorbed):
            statements.append(Statement(records.MOVE_EXEMPLAR, (self._index.move(row, kept), kept)))
        statements.append(Statement(records.MOVE_ALL_SIGHTINGS, (absorbed, kept)))
        self._give_unwritten(self._unwritten_of(absorbed), kept)
        statements.append(Statement(records.DROP_IDENTITY, (absorbed,)))
        self._thin_out(kept, statements)
        self.keep(statements)

    def unmerge(self, absorbed: int) -> int:
        """Take a merge back: what belonged to `absorbed` and still is with whom it went to is `absorbed` again.

        Returns:
            The identity that it was part of.

        Raises:
            InputError: It was not merged into another one, or that one is gone.
            ReidgeError: The file cannot be read or written at present.
        """
        if absorbed in self._identities:
            raise InputError(f"identity {absorbed} stands on its own; there is no merge to take back.")
        self.wait()
        merge = history.last_merge(self.store, absorbed, standing=self._identities)
        kept, back, marks = merge.kept, merge.absorbed, json.dumps(sorted(merge.sightings))
        rows = self._index.rows_of(kept)
        exemplars = [self._index.exemplar(row) for row in rows]
        leaving = [e.exemplar_id in merge.exemplars or e.sighting_id in merge.sightings for e in exemplars]
        # All that is asked of the file comes first: where it cannot be read, nothing has changed.
        for_absorbed = [] if any(leaving) else self._embedded(OWN_AMONG, (kept, marks))
        for_kept = self._embedded(OWN_BESIDE, (kept, marks)) if all(leaving) else []
        last_ended = self._last_ended(kept, without=merge.sightings)
        self._identities[absorbed] = back
        statements = [records.put_identity(back), history.undo(time.time(), merge)]
        if self._identities[kept].name == back.name and merge.kept_name is None and back.name is not None:
            self._name(kept, None, statements)
        for row in (row for row, leaves in zip(rows, leaving, strict=True) if leaves):
            statements.append(Statement(records.MOVE_EXEMPLAR, (self._index.move(row, absorbed), absorbed)))
        statements.append(Statement(records.MOVE_SIGHTINGS, (kept, absorbed, marks)))
        self._restore(absorbed, for_absorbed, statements)
        self._restore(kept, for_kept, statements)
        self._see_again(kept, merge.kept_last_seen, last_ended, statements)
        self.keep(statements)
        return kept

    def split(self, global_id: int, sighting_ids: Collection[int]) -> int:
        """Make some sightings of an identity, and their exemplars, a new identity.

        Returns:
            The new global_id.

        Raises:
            InputError: There is no such identity, or `sighting_ids` are none of its sightings or everything it has.
            ReidgeError: The file cannot be read.
        """
        self._require(global_id)
        moving = self.own_among(global_id, sighting_ids)
        if not moving:
            raise InputError(f"none of the sightings given are of identity {global_id}.")
        marks = json.dumps(sorted(moving))
        from_them = [row for row in self._index.rows_of(global_id) if self._index.exemplar(row).sighting_id in moving]
        all_exemplars = len(from_them) == len(self._index.rows_of(global_id))
        if all_exemplars and not self.store.read(
            f"SELECT 1 FROM sightings WHERE {OWN_BESIDE} LIMIT 1", (global_id, marks)
        ):
            raise InputError(f"nothing would be left of identity {global_id}. Leave out some of its sightings.")
        # All that is asked of the file comes first: where it cannot be read, nothing has changed.
        for_made = [] if from_them else self._embedded(OWN_AMONG, (global_id, marks))
        for_rest = self._embedded(OWN_BESIDE, (global_id, marks)) if all_exemplars else []
        last_ended = self._last_ended(global_id, without=moving)
        statements: list[Statement] = []
        made = self._new_identity(min(row.started_at for row in moving.values()), statements)
        statements.append(history.note_split(time.time(), made=made, split_from=global_id, sighting_ids=moving))
        self._see(made, max(row.ended_at for row in moving.values()), statements)
        for row in from_them:
            statements.append(Statement(records.MOVE_EXEMPLAR, (self._index.move(row, made), made)))
        statements.append(Statement(records.MOVE_SIGHTINGS, (global_id, made, marks)))
        statements.append(Statement(records.DROP_SIMILARITIES, (made,)))
        self._restore(made, for_made, statements)
        self._restore(global_id, for_rest, statements)
        self._see_again(global_id, -np.inf, last_ended, statements)
        self._give_unwritten(moving, made)
        self.keep(statements)
        return made

    def forget(self, global_id: int, *, tombstone: bool = True) -> None:
        """Forget an identity, with its exemplars, sightings and pictures; its number is never given again.

        The file follows when it can, `scrub` waits for it.

        Args:
            global_id: The identity.
            tombstone: Whether a backup from before may not bring it back either.

        Raises:
            InputError: There is no such identity.
        """
        self._require(global_id)
        del self._identities[global_id]
        while rows := self._index.rows_of(global_id):
            self._index.drop(rows[-1])
        for sighting_id in self._unwritten_of(global_id):
            del self._unwritten[sighting_id]
        self.keep(forget_identity(global_id, erased_at=time.time() if tombstone else None))

    def forget_sightings(self, sighting_ids: Collection[int], *, tombstone: bool = True) -> None:
        """Forget recorded sightings; with a tombstone the exemplars from them are forgotten too."""
        if tombstone:
            for sighting_id in sighting_ids:
                while rows := self._index.rows_from(sighting_id):
                    self._index.drop(max(rows))
        for sighting_id in sighting_ids:
            self._unwritten.pop(sighting_id, None)
        self.keep(forget_sightings(sighting_ids, erased_at=time.time() if tombstone else None))

    def scrub(self, seconds: float | None = None) -> None:
        """See to it that nothing of whom was forgotten is left in the file or its journal.

        Args:
            seconds: To wait for those who read the file, as `Store.flush_journal` has it.

        Raises:
            ReidgeError: The disk, or another process that reads the file, does not let that happen yet.
        """
        if not self.flush(WRITE_SECONDS):
            raise ReidgeError(
                f"what was forgotten is not erased from the file yet: {self.trouble or 'the disk is slow.'} "
                "It will be as soon as the file can be written, unless the process ends before."
            )
        self.store.flush_journal(seconds)

    def erase(self, global_id: int) -> None:
        """Forget an identity, and wait until nothing of it is left in any file.

        Raises:
            InputError: There is no such identity.
            ReidgeError: It is forgotten here, but the disk does not let it be erased from the file yet.
        """
        self.forget(global_id)
        self.scrub()

    # How

    def _require(self, global_id: int) -> None:
        if global_id not in self._identities:
            raise history.explain_missing(self.store, global_id)

    def _drop_written(self) -> None:
        """Let go of sightings that the file has; for the loop's thread alone."""
        while self._unwritten:
            sighting_id, (mark, _) = next(iter(self._unwritten.items()))
            if not self.durable(mark):
                return
            del self._unwritten[sighting_id]

    def _unwritten_of(self, global_id: int) -> list[int]:
        return [sighting_id for sighting_id, (_, row) in self._unwritten.items() if row.global_id == global_id]

    def _give_unwritten(self, sighting_ids: Collection[int], global_id: int | None) -> None:
        for sighting_id in self._unwritten.keys() & set(sighting_ids):
            mark, row = self._unwritten[sighting_id]
            self._unwritten[sighting_id] = (mark, replace(row, global_id=global_id))

    def _next(self, table: str) -> int:
        self._last[table] += 1
        return self._last[table]

    def _new_identity(self, at: float, statements: list[Statement]) -> int:
        identity = Identity(global_id=self._next("identities"), created_at=at, last_seen=at)
        self._identities[identity.global_id] = identity
        statements.append(records.put_identity(identity))
        return identity.global_id

    def _see(self, global_id: int, at: float, statements: list[Statement]) -> None:
        identity = self._identities[global_id]
        if at > identity.last_seen:
            identity.last_seen = at
            statements.append(Statement(records.SEE_IDENTITY, (global_id, at)))
        elif at < identity.last_seen and self._never_seen(global_id):  # recordings are older than an enrolment of today
            identity.last_seen = at
            statements.append(Statement(records.SET_SEEN, (global_id, at)))

    def _never_seen(self, global_id: int) -> bool:
        """Tell whether all that is known of an identity is what a user gave."""
        identity = self._identities[global_id]
        rows = self._index.rows_of(global_id) if identity.last_seen == identity.created_at else ()
        return bool(len(rows)) and all(self._index.exemplar(row).enrolled for row in rows)

    def _last_ended(self, global_id: int, *, without: Collection[int]) -> float | None:
        """When the last of an identity's other sightings ended; None without any."""
        values = (global_id, json.dumps(sorted(without)))
        ((ended_at,),) = self.store.read(f"SELECT max(ended_at) FROM sightings WHERE {OWN_BESIDE}", values)
        return None if ended_at is None else float(ended_at)

    def _see_again(self, global_id: int, before: float, ended_at: float | None, statements: list[Statement]) -> None:
        """Correct when an identity was last seen, after sightings have left it."""
        identity = self._identities[global_id]
        known = [self._index.exemplar(row) for row in self._index.rows_of(global_id)]
        exemplars = (exemplar.captured_at for exemplar in known if not exemplar.enrolled)
        identity.last_seen = max(
            (at for at in (before, ended_at, *exemplars) if at is not None and at > -np.inf),
            default=identity.created_at,
        )
        statements.append(Statement(records.SET_SEEN, (global_id, identity.last_seen)))

    def _name(self, global_id: int, name: str | None, statements: list[Statement]) -> None:
        self._identities[global_id].name = name
        statements.append(Statement(records.NAME_IDENTITY, (global_id, name)))

    def _add(self, exemplar: Exemplar, statements: list[Statement]) -> None:
        self._index.add(exemplar)
        statements.append(records.put_exemplar(exemplar))

    def _owner(self, sighting: SightingRow) -> int | None:
        for row in self._index.rows_from(sighting.sighting_id):
            return int(self._index.global_ids_M[row])
        return sighting.global_id

    def _embedded(self, where: str, values: Sequence[object]) -> list[SightingRow]:
        """Sightings that exemplars can be made of, oldest first, and no more of them than are kept."""
        return self.store.sightings(f"embedding IS NOT NULL AND {where}", values)[-self._max_exemplars :]

    def _restore(self, global_id: int, sightings: Sequence[SightingRow], statements: list[Statement]) -> None:
        """Make exemplars of sightings that an identity is to have."""
        for sighting in sightings:
            assert sighting.embedding_D is not None
            exemplar = Exemplar(
                exemplar_id=self._next("exemplars"),
                global_id=global_id,
                captured_at=sighting.ended_at,
                embedding_D=sighting.embedding_D,
                sighting_id=sighting.sighting_id,
            )
            self._add(exemplar, statements)

    def _thin_out(self, global_id: int, statements: list[Statement]) -> None:
        """Drop exemplars until few enough are left, each time the one that is missed least.

        That is one of the two most alike: the worse picture, or of equal ones the newer. What the user gave stays
        as long as there is anything else.
        """
        while len(rows := self._index.rows_of(global_id)) > self._max_exemplars:
            own_MD = self._index.embeddings_MD[rows]
            likeness_MM = own_MD @ own_MD.T
            np.fill_diagonal(likeness_MM, -2.0)
            exemplars = [self._index.exemplar(row) for row in rows]
            given_M = np.array([exemplar.enrolled for exemplar in exemplars])
            if not given_M.all():
                likeness_MM[np.ix_(given_M, given_M)] = -2.0
            one, other = (int(i) for i in np.unravel_index(np.argmax(likeness_MM), likeness_MM.shape))
            worse = min(one, other, key=lambda i: (exemplars[i].enrolled, exemplars[i].quality, -i))
            statements.append(Statement(records.DROP_EXEMPLAR, (self._index.drop(rows[worse]),)))
