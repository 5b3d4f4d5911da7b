"""Folders of pictures, read as a recording: one picture a frame, in the order of the numbers in their names."""

# H, W = height and width

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from reidge.edge.crops import read_image
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

PICTURES = (".jpg", ".jpeg", ".png", ".bmp")


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder; 10.jpg comes after 9.jpg."""
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in PICTURES), key=_number)


def check_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder that is to have some.

    Raises:
        InputError: It has none, or may not be looked into.
    """
    try:
        paths = pictures_of(folder)
    except PermissionError as error:
        raise InputError(f"{folder} cannot be read: permission denied.") from error
    if not paths:
        raise InputError(
            f"{folder} holds no pictures ({', '.join(PICTURES)}). Give a video file or an rtsp:// address."
        )
    return paths


def read_pictures(folder: Path) -> Iterator[tuple[int, float, NDArray[np.uint8]]]:
    """Give number, moment of reading (seconds of `time.monotonic()`) and `(H, W, 3)` BGR of each readable picture.

    Raises:
        InputError: There is none.
    """
    paths, readable = check_pictures(folder), 0
    for number, path in enumerate(paths):
        arrived_at = time.monotonic()
        try:
            image_HW3 = read_image(path)
        except InputError:
            continue  # damaged, like a packet of a stream; its place in time stays empty
        readable += 1
        yield number, arrived_at, image_HW3
    if not readable:
        raise InputError(f"{folder}: none of its {len(paths)} pictures can be read. Record or copy them again.")


def _number(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
