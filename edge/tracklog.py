"""The boxes of every handled frame and the identity of every track, so that a run can be scored."""

from __future__ import annotations

import csv
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from reidge.edge.frame import Frame
    from reidge.edge.tracker import TrackedBox

TRACK_COLUMNS = ("frame", "track_id", "x1", "y1", "x2", "y2", "captured_at")
IDENTITY_COLUMNS = ("camid", "track_id", "global_id")
IDENTITIES_NAME = "identities.csv"


class TrackLog:
    """Writes `<folder>/<camid>.csv` row by row and `identities.csv` at the end; nothing when folder is None."""

    def __init__(self, folder: Path | None, camids: Iterable[str]) -> None:
        self.folder = folder
        self._camids = tuple(camids)
        self._stack = ExitStack()
        self._writers: dict[str, Any] = {}

    def __enter__(self) -> TrackLog:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / IDENTITIES_NAME).unlink(missing_ok=True)
            for camid in self._camids:
                file = self._stack.enter_context((self.folder / f"{camid}.csv").open("w", newline=""))
                self._writers[camid] = csv.writer(file)
                self._writers[camid].writerow(TRACK_COLUMNS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, frame: Frame, boxes: Iterable[TrackedBox]) -> None:
        """Write the confirmed tracks of one frame."""
        if frame.camid in self._writers:
            for box in boxes:
                corners = (round(float(value), 1) for value in box.box_4)
                row = (frame.index, box.track_id, *corners, f"{frame.captured_at:.3f}")
                self._writers[frame.camid].writerow(row)

    def write_identities(self, identities: Iterable[tuple[str, int, int | None]]) -> None:
        """Write the final table of (camid, track_id, global_id); an undecided track has an empty global_id."""
        if self.folder is None:
            return
        partial = self.folder / f".{IDENTITIES_NAME}.partial"
        with partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(IDENTITY_COLUMNS)
            writer.writerows(identities)
        partial.rename(self.folder / IDENTITIES_NAME)
