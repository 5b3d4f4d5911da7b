"""The features of an epoch: in memory, or in a float16 file that survives an interruption.

They are one tensor either way. Those in a file are read as they are needed and never held whole, so whoever reads
features takes a few rows at a time, as float32 and on the device where they are wanted.
"""

# N = images, D = embedding, R = rows of a block

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reidge.edge.errors import ReidgeError
from reidge.train.checkpoint import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

FEATURES_NAME = "features.f16"
"""In the run folder, while an epoch's features do not fit into memory."""
ROWS_AT_ONCE = 4096
"""Rows read at a time: 32 MiB as float32 at 2048 dimensions."""
SAVE_EVERY = 4096
"""Rows after which what has been written is made durable; an interruption costs no more."""


def take(features_ND: Tensor, indices: Tensor, device: torch.device) -> Tensor:
    """Return some rows as float32 on the device; `indices` of any shape and on any device."""
    return features_ND[indices.to(features_ND.device)].to(device).float()


def blocks(features_ND: Tensor, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Yield all rows in turn, which ones and as float32 on the device."""
    for start in range(0, len(features_ND), ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, len(features_ND)))
        yield rows, features_ND[rows].to(device).float()


def all_finite(features_ND: Tensor) -> bool:
    """Whether every number is one."""
    return all(bool(x_RD.isfinite().all()) for _, x_RD in blocks(features_ND, features_ND.device))


@dataclass(slots=True, kw_only=True)
class FeatureWriter:
    """Writes one process's rows, from the first to the last."""

    path: Path
    file: int
    """Its descriptor."""
    progress: Path
    key: str
    rows: slice
    """Of all features."""
    width: int
    done: int
    """Rows that are durable."""
    unsaved: int = 0

    def write(self, x_RD: NDArray[np.float32]) -> None:
        """Append rows.

        Raises:
            ReidgeError: The disk fails; what is durable stays.
        """
        content = x_RD.astype(np.float16).tobytes()
        offset = (self.rows.start + self.done + self.unsaved) * self.width * 2
        with _disk_errors(self.path):
            while content:
                written = os.pwrite(self.file, content, offset)
                content, offset = content[written:], offset + written
        self.unsaved += len(x_RD)
        if self.unsaved >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Make durable what has been written, and say so.

        Raises:
            ReidgeError: As for `write`.
        """
        with _disk_errors(self.path):
            os.fsync(self.file)
            self.done, self.unsaved = self.done + self.unsaved, 0
            text = json.dumps(_progress(self.key, self.rows, self.width, self.done))
            write_atomically(self.progress, lambda partial: partial.write_text(text))


def reserve_features(folder: Path, shape: tuple[int, int]) -> Path:
    """Take the room on the disk that features `(N, D)` need, now rather than in the middle of an extraction.

    A file that has it already keeps what it holds.

    Raises:
        ReidgeError: There is too little; says how much is needed.
    """
    path, needed = folder / FEATURES_NAME, shape[0] * shape[1] * 2
    what = f"the features of {shape[0]} crops take {needed / 2**30:.2f} GiB in {folder}"
    todo = "Free some space and go on with --resume, or choose an --output on a larger disk."
    try:
        held = path.stat().st_blocks * 512 if path.is_file() else 0
        free = shutil.disk_usage(folder).free
        if needed - held > free:
            raise ReidgeError(f"{what}, where {free / 2**30:.2f} are free. {todo}")
        with path.open("ab") as file:
            if path.stat().st_size != needed:
                file.truncate(0)  # so that a row is zeros until it is written
            os.posix_fallocate(file.fileno(), 0, needed)
    except OSError as error:
        path.unlink(missing_ok=True)  # else what could be had of it stays taken
        raise ReidgeError(f"{what}, which fails: {error.strerror or error}. {todo}") from error
    return path


@contextmanager
def open_writer(folder: Path, shape: tuple[int, int], rows: slice, *, key: str) -> Iterator[FeatureWriter]:
    """Go on with the features of an extraction, or begin them.

    Args:
        folder: Where `reserve_features` has made room; shared by the processes that write.
        shape: Of all features, `(N, D)`.
        rows: That this process writes.
        key: Of the extraction: the same only where every feature would come out the same.

    Raises:
        ReidgeError: The disk fails, or this process does not see the folder.
    """
    path = folder / FEATURES_NAME
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError as error:
        raise ReidgeError(
            f"{path} is not there. Processes on several machines need an --output that all of them see."
        ) from error
    try:
        progress = folder / f"{FEATURES_NAME}.{rows.start}.json"
        done = _done(progress, _progress(key, rows, shape[1], 0), file)
        writer = FeatureWriter(path=path, file=file, progress=progress, key=key, rows=rows, width=shape[1], done=done)
        yield writer
        writer.save()
    finally:
        os.close(file)


def map_features(folder: Path, shape: tuple[int, int]) -> Tensor:
    """Return features that have been written whole: float16 on the CPU, read from the file when they are needed."""
    # Copy on write: torch cannot be told that nothing writes here.
    return torch.from_numpy(np.memmap(folder / FEATURES_NAME, dtype=np.float16, mode="c", shape=shape))


def remove_features(folder: Path) -> None:
    """Remove the features and the notes of their progress, at the end of a run."""
    for path in folder.glob(f"{FEATURES_NAME}*"):
        path.unlink(missing_ok=True)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReidgeError(
            f"{path} cannot be written: {error.strerror or error}. See to the disk and go on with --resume."
        ) from error


def _progress(key: str, rows: slice, width: int, done: int) -> dict[str, Any]:
    return {"key": key, "rows": [rows.start, rows.stop], "width": width, "done": done}


def _done(path: Path, begun: dict[str, Any], file: int) -> int:
    """Read how many rows of this very extraction are durable."""
    try:
        found = json.loads(path.read_text())
        done = int(found["done"]) if {**found, "done": 0} == begun else 0
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0
    row = begun["width"] * 2
    # Unit vectors are never all zeros: then the note outlived its features, which somebody removed to make room.
    return done if done and any(os.pread(file, row, (begun["rows"][0] + done - 1) * row)) else 0
