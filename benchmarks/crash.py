"""SIGKILL at random moments of a process that changes a gallery as fast as it can.

The process does what a site and its user do: sightings are recorded and decided, identities made, merged, unmerged,
split and erased, each told by an event as soon as the gallery's file says so. After each kill the file is opened as the
next start opens it, and three things must hold:

- The file is whole, and it is exactly what the gallery was after some change, none that was told missing: the same
  changes are made again in a copy from before, until the copy is like the file.
- The index holds the exemplars of the file and no others, and finds each by its own embedding; an exemplar and the
  sighting that it comes from are the same person.
- The process goes on from there; the next kill hits what the last one left.

    python benchmarks/crash.py              # 200 kills, 6 minutes
    python benchmarks/crash.py --kills 12   # 20 seconds
    python benchmarks/crash.py --table      # write the result into the docs
"""

# M = exemplars, D = embedding

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from publish import RESULTS, markdown_table, provenance, put_between_markers, ran_on, write_result

from reidge.edge.errors import InputError
from reidge.edge.events import Event
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.holdback import Holdback
from reidge.edge.metrics import Metrics
from reidge.edge.records import SightingRow

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESULT = RESULTS / "crash.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "gallery.md"
DIM = 64
ENCODER = "0" * 64
CONFIG = GalleryConfig(min_similarity=0.8, max_exemplars=4)
MOST_PENDING = 100
"""Changes that may wait to be written before the process waits for them."""
MOST_IDENTITIES = 300
"""From which on somebody is erased at every turn in two."""
LONGEST = 0.4
"""Seconds from the first event to the kill, at most."""
Snapshot = tuple[dict[int, Any], dict[int, Any], dict[int, Any]]


def open_gallery(path: Path) -> Gallery:
    """As the next start opens it."""
    return Gallery(path, encoder_hash=ENCODER, embedding_dim=DIM, config=CONFIG)


class Life:
    """What happens to a gallery: the same from the same seed and the same beginning.

    Args:
        gallery: Open.
        seed: Of this life.
    """

    def __init__(self, gallery: Gallery, seed: int) -> None:
        self.gallery = gallery
        self._rng = np.random.default_rng(seed)
        self._sightings = {row.sighting_id: row.global_id for row in gallery.sightings()}
        self._absorbed: list[int] = []

    def turn(self) -> None:
        """One change: each is one transaction of the file."""
        identities = self.gallery.identities()
        if len(identities) > MOST_IDENTITIES and self._rng.random() < 0.5:
            self._erase(identities)
            return
        changes = (self._record, self._enrol, self._assign, self._merge, self._unmerge, self._split, self._erase)
        change = self._rng.choice(len(changes), p=(0.4, 0.3, 0.1, 0.08, 0.04, 0.04, 0.04))
        changes[change](identities)

    def _embedding(self) -> NDArray[np.float32]:
        found_D = self._rng.standard_normal(DIM, dtype=np.float32)
        return np.asarray(found_D / np.linalg.norm(found_D))

    def _one(self, identities: list[int]) -> int | None:
        return int(self._rng.choice(identities)) if identities else None

    def _record(self, identities: list[int]) -> None:
        known = self._one(identities) if self._rng.random() < 0.7 else None
        at = float(self._rng.uniform(0, 1e6))
        row = SightingRow(
            camid="door",
            track_id=1,
            started_at=at,
            ended_at=at + 5,
            global_id=known,
            pictures=3,
            embedding_D=self._embedding(),
        )
        self._sightings[self.gallery.record(row)] = known

    def _enrol(self, identities: list[int]) -> None:
        """Somebody new, or one more exemplar of a sighting that is decided."""
        decided = [s for s, g in self._sightings.items() if g is not None]
        if decided and self._rng.random() < 0.6:
            sighting_id = int(self._rng.choice(decided))
            of, source = self._sightings[sighting_id], sighting_id
        else:
            of, source = None, None
        self.gallery.enrol(self._embedding(), captured_at=1.0, global_id=of, sighting_id=source)

    def _assign(self, identities: list[int]) -> None:
        if self._sightings:
            sighting_id = int(self._rng.choice(list(self._sightings)))
            self._sightings[sighting_id] = self._one(identities)
            self.gallery.assign(sighting_id, self._sightings[sighting_id], 0.5)

    def _merge(self, identities: list[int]) -> None:
        if len(identities) > 1:
            kept, absorbed = (int(i) for i in self._rng.choice(identities, 2, replace=False))
            self.gallery.merge(kept=kept, absorbed=absorbed)
            self._absorbed.append(absorbed)
            self._read_again()

    def _unmerge(self, identities: list[int]) -> None:
        if self._absorbed:
            try:
                self.gallery.unmerge(self._absorbed.pop())
            except InputError:  # whom it went to was erased
                return
            self._read_again()

    def _split(self, identities: list[int]) -> None:
        one = self._one([g for g in self._sightings.values() if g is not None])
        own = [s for s, g in self._sightings.items() if g == one]
        if one is not None and len(own) > 1:
            self.gallery.split(one, own[: len(own) // 2])
            self._read_again()

    def _erase(self, identities: list[int]) -> None:
        one = self._one(identities)
        if one is not None:
            self.gallery.forget(one)
            self._read_again()

    def _read_again(self) -> None:
        self._sightings = {row.sighting_id: row.global_id for row in self.gallery.sightings()}


class Told:
    """Prints the number of the change that each event tells of."""

    written = 0

    def write(self, event: Event) -> None:
        """Say it."""
        self.written += 1
        sys.stdout.write(f"{event.track_id}\n")
        sys.stdout.flush()


def live(path: Path, seed: int) -> None:
    """Change a gallery until killed."""
    gallery = open_gallery(path)
    life, holdback = Life(gallery, seed), Holdback(Told(), gallery, Metrics())
    for number in count(1):
        life.turn()
        moment = "1970-01-01T00:00:00.000Z"
        holdback.write(Event(event="sighting.ended", captured_at=moment, camid="door", track_id=number))
        holdback.release()
        if gallery.pending > MOST_PENDING:
            gallery.flush(1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """What one kill left."""

    told: int
    """Changes that were told before it."""
    kept: int
    """Changes in the file after it."""
    identities: int
    exemplars: int
    sightings: int
    open_seconds: float
    """Of the start after it."""


def snapshot(path: Path) -> Snapshot:
    """What the file says: identities, exemplars and sightings by number."""
    with closing(sqlite3.connect(path)) as db:
        identities = {row[0]: row[1:] for row in db.execute("SELECT global_id, last_seen, name FROM identities")}
        exemplars = {
            row[0]: row[1:]
            for row in db.execute("SELECT exemplar_id, global_id, sighting_id, embedding FROM exemplars")
        }
        sightings = {
            row[0]: row[1:] for row in db.execute("SELECT sighting_id, global_id, similarity, embedding FROM sightings")
        }
    return identities, exemplars, sightings


def kill_once(path: Path, before: Path, seed: int, after: float) -> Kill:
    """Let a process live, kill it, and look at what it left.

    Args:
        path: The gallery.
        before: Where to copy it to first.
        seed: Of what happens.
        after: Seconds from its first event to the kill.

    Raises:
        AssertionError: Something is lost, or the index is not what the file says.
    """
    if path.exists():
        shutil.copy(path, before)
    told = _live_and_die(path, seed, after)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    found = snapshot(path)
    kept = _replay(before, seed, found, told)
    began = time.perf_counter()
    with open_gallery(path) as gallery:
        seconds = time.perf_counter() - began
        _check_index(gallery, found)
    for number, (global_id, sighting_id, _) in found[1].items():
        assert sighting_id is None or found[2][sighting_id][0] == global_id, (
            f"exemplar {number} and its sighting differ"
        )
    return Kill(
        told=told,
        kept=kept,
        identities=len(found[0]),
        exemplars=len(found[1]),
        sightings=len(found[2]),
        open_seconds=seconds,
    )


def _live_and_die(path: Path, seed: int, after: float) -> int:
    command = [sys.executable, __file__, "--live", str(path), "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, "it died by itself"
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
    whole = (first + rest).rpartition("\n")[0]  # of a last line that is cut nothing is known
    return int(whole.splitlines()[-1])


def _replay(before: Path, seed: int, found: Snapshot, told: int) -> int:
    """Make the changes again until the copy is like the file; returns how many that took.

    Raises:
        AssertionError: It never is, or only before the last change that was told.
    """
    with open_gallery(before) as gallery:
        life, turns = Life(gallery, seed), 0
        while turns < told:
            life.turn()
            turns += 1
        for _ in range(10 * MOST_PENDING):
            assert gallery.flush(10.0)
            if snapshot(before) == found:
                break
            life.turn()
            turns += 1
        else:
            raise AssertionError(f"the file is like the gallery at no moment after change {told}, which was told")
    for file in before.parent.glob(f"{before.name}*"):
        file.unlink()
    return turns


def _check_index(gallery: Gallery, found: Snapshot) -> None:
    index = gallery._index
    embeddings = {number: np.frombuffer(row[2], dtype="<f4") for number, row in found[1].items()}
    assert sorted(index.exemplar_ids_M.tolist()) == sorted(embeddings)
    for row, number in enumerate(index.exemplar_ids_M.tolist()):
        assert index.global_ids_M[row] == found[1][number][0]
        assert np.array_equal(index.embeddings_MD[row], embeddings[number])
    rows_QK, _ = index.search(index.embeddings_MD, 1)
    assert rows_QK[:, 0].tolist() == list(range(len(index)))


def run_all(kills: int, work: Path) -> dict[str, Any]:
    """Kill so many times, always on the same gallery."""
    rng = np.random.default_rng(0)
    path, done = work / "gallery.sqlite", []
    for number in range(kills):
        kill = kill_once(path, work / "before.sqlite", number, float(rng.uniform(0, LONGEST)))
        done.append(kill)
        print(f"{number + 1}/{kills}: {kill.told} changes told, {kill.kept} kept", file=sys.stderr, flush=True)
    figures = {
        "kills": kills,
        "told": sum(kill.told for kill in done),
        "kept": sum(kill.kept for kill in done),
        "lost": 0,
        "most_identities": max(kill.identities for kill in done),
        "most_exemplars": max(kill.exemplars for kill in done),
        "most_sightings": max(kill.sightings for kill in done),
        "slowest_open_s": round(max(kill.open_seconds for kill in done), 3),
    }
    return provenance() | figures


def describe(result: dict[str, Any]) -> str:
    """The table."""
    header = ("kills", "changes told before", "of these lost", "galleries that did not open", "slowest start: s")
    row = (str(result["kills"]), f"{result['told']:,}", str(result["lost"]), "0", f"{result['slowest_open_s']:.2f}")
    return f"{markdown_table(header, [row])}\n\n{ran_on(result)}"


def main() -> None:
    """Kill, or write the table of what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--live", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="write the table of the last result into the docs")
    args = parser.parse_args()
    if args.live is not None:
        live(args.live, args.seed)
    elif args.table:
        put_between_markers(DOCUMENT, "crash", describe(json.loads(args.result.read_text())))
    else:
        with tempfile.TemporaryDirectory() as work:
            result = run_all(args.kills, Path(work))
        write_result(args.result, result)
        print(describe(result))


if __name__ == "__main__":
    main()
