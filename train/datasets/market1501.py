"""Folders of images named as in Market-1501: `0002_c1s1_000451_03.jpg` is person 2 in camera 1.

DukeMTMC-reID (`0005_c2_f0046985.jpg`), PersonX (`0001_c3s1_...`) and VeRi-776 (`0002_c002_00030600_0.jpg`) name theirs
so too; only the names of the folders differ.
"""

# N = images

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge.errors import InputError
from reidge.train.datasets.benchmark import LabelledImages, Split, image_files, require_images

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

NAME = re.compile(r"^(-?\d+)_c(\d+)")
JUNK_PID = -1
"""Boxes that are not a person; left out by every published evaluation."""
MARKET_FOLDERS: Mapping[Split, str] = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
VERI_FOLDERS: Mapping[Split, str] = {"train": "image_train", "query": "image_query", "gallery": "image_test"}


def read_named_images(folder: Path) -> LabelledImages:
    """Read person and camera from the names in one folder; the images stay on disk, junk is left out.

    Raises:
        InputError: The folder is missing or empty, or a file name does not follow the layout.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist. Give the folder that holds it, as it was unpacked.")
    paths, pids, camids = [], [], []
    for path in image_files(folder):
        name = NAME.match(path.name)
        if name is None:
            raise InputError(f"{path} is not named PID_cCAMERA..., e.g. 0002_c1s1_000451_03.jpg. Rename or remove it.")
        pid, camid = int(name[1]), int(name[2])
        if pid != JUNK_PID:
            paths.append(path)
            pids.append(pid)
            camids.append(camid)
    images = LabelledImages(
        paths=tuple(paths), pids=np.array(pids, dtype=np.int64), camids=np.array(camids, dtype=np.int64)
    )
    return require_images(images, folder)


def join(parts: Sequence[LabelledImages]) -> LabelledImages:
    """Put the images of several folders behind each other."""
    return LabelledImages(
        paths=tuple(path for part in parts for path in part.paths),
        pids=np.concatenate([part.pids for part in parts]),
        camids=np.concatenate([part.camids for part in parts]),
    )
