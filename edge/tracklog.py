"""The boxes of every handled frame and the identity of every track, so that a run can be scored."""

from __future__ import annotations

import csv
import logging
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from reidge.edge.folder import make_own_folder, open_own

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import IO

    import numpy as np
    from numpy.typing import NDArray

    from reidge.edge.frame import Frame
    from reidge.edge.tracker import TrackedBox

TRACK_COLUMNS = ("frame", "track_id", "x1", "y1", "x2", "y2", "captured_at")
IDENTITY_COLUMNS = ("camid", "track_id", "global_id")
REMEMBERED_FRAMES = 128
"""Frames of a camera over which the box of a track that was lost and found is filled in."""
IDENTITIES_NAME = "identities.csv"

log = logging.getLogger(__name__)


class TrackLog:
    """Writes `<folder>/<camid>.csv` row by row and `identities.csv` at the end; nothing when folder is None.

    A disk that is full costs rows, which are counted, and never the run.

    A track's rows also cover the frames before it was confirmed and those in which it was lost and found again, so
    rows are not strictly in the order of frames.
    """

    def __init__(self, folder: Path | None, camids: Iterable[str]) -> None:
        self.folder = folder
        self.failures = 0
        """Times that rows were lost."""
        self._camids = tuple(camids)
        self._files: dict[str, IO[str]] = {}
        self._writers: dict[str, Any] = {}
        self._moments: dict[str, deque[tuple[float, int]]] = {}
        self._last: dict[tuple[str, int], tuple[float, NDArray[np.float32]]] = {}

    def __enter__(self) -> TrackLog:
        if self.folder is not None:
            make_own_folder(self.folder)
            (self.folder / IDENTITIES_NAME).unlink(missing_ok=True)
            for camid in self._camids:
                self._open(camid)
        return self

    def _open(self, camid: str) -> None:
        assert self.folder is not None
        self._files[camid] = open_own(self.folder / f"{camid}.csv", "w")
        self._writers[camid] = csv.writer(self._files[camid])
        self._writers[camid].writerow(TRACK_COLUMNS)
        self._moments[camid] = deque(maxlen=REMEMBERED_FRAMES)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            with self._not_the_end_of_it():
                file.close()

    def add(self, camid: str) -> None:
        """Begin the file of a camera that came while running."""
        if self.folder is not None and camid not in self._files:
            with self._not_the_end_of_it():
                self._open(camid)

    @contextmanager
    def _not_the_end_of_it(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failures += 1
            log.warning("outputs.tracks: rows are lost: %s", error.strerror or error)

    def write(self, frame: Frame, boxes: Iterable[TrackedBox]) -> None:
        """Write the confirmed tracks of one frame."""
        if frame.camid in self._writers:
            moments = self._moments[frame.camid]
            moments.append((frame.captured_at, frame.index))
            with self._not_the_end_of_it():
                for box in boxes:
                    key = (frame.camid, box.track_id)
                    for past in box.earlier:
                        self._fill(key, moments, past.captured_at, past.box_4)
                    self._fill(key, moments, frame.captured_at, box.box_4)

    def _fill(
        self, key: tuple[str, int], moments: Iterable[tuple[float, int]], at: float, box_4: NDArray[np.float32]
    ) -> None:
        """Write a box, and before it the boxes on a straight line from the last one, while the track was lost."""
        last_at, last_4 = self._last.get(key, (at, box_4))
        for moment, index in moments:
            if last_at < moment < at or moment == at:
                share = (moment - last_at) / (at - last_at) if at > last_at else 1.0
                corners = (round(float(value), 1) for value in last_4 + share * (box_4 - last_4))
                self._writers[key[0]].writerow((index, key[1], *corners, f"{moment:.3f}"))
        self._last[key] = (at, box_4)

    def forget(self, camid: str, track_id: int) -> None:
        """Note that a track has ended."""
        self._last.pop((camid, track_id), None)

    def write_identities(self, identities: Iterable[tuple[str, int, int | None]]) -> None:
        """Write the final table of (camid, track_id, global_id); an undecided track has an empty global_id."""
        if self.folder is None:
            return
        partial = self.folder / f".{IDENTITIES_NAME}.partial"
        with self._not_the_end_of_it():
            with open_own(partial, "w") as file:
                writer = csv.writer(file)
                writer.writerow(IDENTITY_COLUMNS)
                writer.writerows(identities)
            partial.rename(self.folder / IDENTITIES_NAME)
