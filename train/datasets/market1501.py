"""Market-1501's layout, which many labelled splits share: `0002_c1s1_000451_03.jpg` is person 2 in camera 1."""

# N = images

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NAME = re.compile(r"^(-?\d+)_c(\d+)")
SUFFIXES = (".jpg", ".jpeg", ".png")
JUNK_PID = -1
"""Boxes that are not a person; left out by every published evaluation."""
TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """Images with identity and camera, sorted by path."""

    paths: tuple[Path, ...]
    pids: NDArray[np.int64]
    """`(N,)`; 0 is a distractor nobody asks for."""
    camids: NDArray[np.int64]
    """`(N,)`."""

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Market1501:
    """The query/gallery split of a folder in Market-1501's layout."""

    root: Path
    query: LabelledImages
    gallery: LabelledImages


def read_market1501(root: Path) -> Market1501:
    """Read names of `query/` and `bounding_box_test/`; the images stay on disk.

    Raises:
        InputError: A folder is missing or empty, or a file name does not follow the layout.
    """
    return Market1501(root=root, query=read_images(root / QUERY), gallery=read_images(root / GALLERY))


def read_images(folder: Path) -> LabelledImages:
    """Read the names of one folder of the layout.

    Raises:
        InputError: As `read_market1501`.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} does not exist. Give the folder that holds {QUERY}/ and {GALLERY}/ in Market-1501's layout."
        )
    paths, pids, camids = [], [], []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        name = NAME.match(path.name)
        if name is None:
            raise InputError(f"{path} is not named PID_cCAMERA..., e.g. 0002_c1s1_000451_03.jpg. Rename or remove it.")
        pid, camid = int(name[1]), int(name[2])
        if pid != JUNK_PID:
            paths.append(path)
            pids.append(pid)
            camids.append(camid)
    if not paths:
        raise InputError(f"{folder} holds no images ({', '.join(SUFFIXES)}). Give a folder that does.")
    return LabelledImages(paths=tuple(paths), pids=np.array(pids), camids=np.array(camids))
