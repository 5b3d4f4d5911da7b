"""Frames of a site for calibrating a detector: spread over every recording, a third of them held out."""

# N = frames, H, W = input height and width

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from reidge.edge.crops import read_image
from reidge.edge.detectors.letterbox import letterbox
from reidge.edge.errors import InputError
from reidge.edge.footage import Span, check_footage, count_frames, is_live, read_footage
from reidge.edge.redact import redact
from reidge.edge.sources.images import PICTURES, check_pictures, pictures_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

Item = TypeVar("Item")
HELD_OUT_EVERY = 3
FAR_APART = 100
"""Frames between two wanted ones from which searching is faster than decoding what lies between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSets:
    """Frames in the letterbox of a detector."""

    calibration_NHW3: NDArray[np.uint8]
    """BGR; activation ranges are taken from these."""
    held_out_NHW3: NDArray[np.uint8]
    """The INT8 graph is judged by these."""

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over shape and values of the calibration frames."""
        digest = hashlib.sha256(str(self.calibration_NHW3.shape).encode())
        digest.update(self.calibration_NHW3.tobytes())
        return digest.hexdigest()


def read_frame_sets(sources: Sequence[str | Path], *, size: tuple[int, int], count: int) -> FrameSets:
    """Take frames evenly from recordings and pictures and hold every third one out.

    Args:
        sources: Video files, pictures, and folders of pictures.
        size: Height and width of the detector's input.
        count: Frames in all, at most; every source has the same share.

    Raises:
        InputError: A source is missing or unreadable, or there are fewer than 3 frames in all.
    """
    if count < HELD_OUT_EVERY:
        raise InputError(f"{count} frames are too few: at least {HELD_OUT_EVERY} are needed, 192 are a good start.")
    paths = [check_source(source) for source in sources]
    share = -(-count // len(paths))
    taken = [frame_HW3 for path in paths for frame_HW3 in spread(path, share, size=size)]
    if len(taken) < HELD_OUT_EVERY:
        raise InputError(f"the footage has only {len(taken)} frames. Give recordings of some minutes.")
    frames_NHW3 = np.stack(thin(taken, count))
    held_out_N = np.arange(len(frames_NHW3)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return FrameSets(calibration_NHW3=frames_NHW3[~held_out_N], held_out_NHW3=frames_NHW3[held_out_N])


def check_source(source: str | Path) -> Path:
    """Give a source's path, or refuse one that cannot be read before any work is spent on the others.

    Raises:
        InputError: It is missing, a live stream, a folder without pictures, or no video.
    """
    if is_live(str(source)):
        raise InputError(f"{redact(str(source))} is a live stream. Record some minutes of it first.")
    path = Path(source)
    if path.is_dir():
        check_pictures(path)
    elif path.suffix.lower() not in PICTURES or not path.exists():
        check_footage(str(path))
    return path


def spread(source: Path, count: int, *, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """About `count` frames of one source in the letterbox, evenly spaced, never many more.

    No more than one of them is in memory as large as it was recorded.
    """
    if source.is_dir() or source.suffix.lower() in PICTURES:
        paths = pictures_of(source) if source.is_dir() else [source]
        yield from (letterbox(read_image(path), size)[0] for path in thin(paths, count))
        return
    seconds = count_frames(str(source), Span(max_fps=1.0))
    frames = count_frames(str(source))
    if not frames or not seconds or frames <= count:  # short, or its length is not known: each frame is as good
        start = islice(read_footage(str(source), camid=""), 4 * count)
        yield from thin([letterbox(frame.image, size)[0] for frame in start], count)
    elif frames > FAR_APART * count:
        for second in np.linspace(0, seconds, count, endpoint=False):
            frame = next(read_footage(str(source), camid="", span=Span(since=float(second))), None)
            if frame is not None:
                yield letterbox(frame.image, size)[0]
    else:
        span = Span(max_fps=count / seconds)
        yield from (letterbox(frame.image, size)[0] for frame in read_footage(str(source), camid="", span=span))


def thin(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of them, evenly spaced."""
    if len(items) <= count:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, count).round().astype(int)]
