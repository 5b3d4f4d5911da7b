"""MSMT17 as it is unpacked: lists of image and person, and a folder of images for each person.

A line of a list is `0000/0000_000_01_0303morning_0015_0.jpg 0`: the image, whose third field is the camera, and the
person. V1 keeps its images in `train/` and `test/`, V2, where faces are masked, in `mask_train_v2/` and
`mask_test_v2/`. Training takes both training lists, as the published unsupervised methods do.
"""

# N = images

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reidge.edge.errors import InputError
from reidge.train.datasets.benchmark import LabelledImages, Split, image_files, require_images

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

VERSIONS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
"""Folders of training and of test images."""
LISTS: Mapping[Split, tuple[str, ...]] = {
    "train": ("list_train.txt", "list_val.txt"),
    "query": ("list_query.txt",),
    "gallery": ("list_gallery.txt",),
}


def find_version(root: Path) -> str | None:
    """Tell `V1` from `V2` by the folders of images; None where it is no MSMT17.

    Raises:
        InputError: Both versions lie in one folder.
    """
    found = [name for name, folders in VERSIONS.items() if all((root / folder).is_dir() for folder in folders)]
    if len(found) > 1:
        raise InputError(f"{root} holds both versions of MSMT17. Move V1 (train/, test/) or V2 (mask_*_v2/) elsewhere.")
    return found[0] if found else None


def read_msmt17(root: Path, split: Split, version: str) -> LabelledImages:
    """Read one split; the images stay on disk.

    Copies are passed around without the lists. Training images are then all there are; queries and gallery cannot be
    told apart.

    Raises:
        InputError: A list is missing or empty, or a line of it does not parse.
    """
    train, test = VERSIONS[version]
    images = root / (train if split == "train" else test)
    missing = [name for name in LISTS[split] if not (root / name).is_file()]
    if split == "train" and len(missing) == len(LISTS[split]):
        lines = _lines_without_list(images)
    elif missing:
        raise InputError(f"{root} lacks {' and '.join(missing)}. Get the lists from the data set's owners.")
    else:
        lines = [line for name in LISTS[split] for line in _lines_of(root / name)]
    return require_images(_parse_lines(images, lines), root)


def _lines_of(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if line.strip():
            yield f"{path}, line {number}", line


def _lines_without_list(images: Path) -> list[tuple[str, str]]:
    """Write what a list would say, from the folder and the name of each image."""
    paths = [path.relative_to(images) for path in image_files(images, deep=True)]
    return [(str(images / path), f"{path.as_posix()} {path.parts[0]}") for path in paths]


def _parse_lines(images: Path, lines: list[tuple[str, str]]) -> LabelledImages:
    """Parse lines, each with where it stands."""
    paths, pids, camids = [], [], []
    for where, line in lines:
        try:
            path, pid = line.rsplit(maxsplit=1)
            camids.append(int(path.split("_")[2]))
            pids.append(int(pid))
        except (ValueError, IndexError):
            raise InputError(f"{where}: {line!r} is not PID/PID_IMAGE_CAMERA_... PID. Restore the data set.") from None
        paths.append(images / path)
    return LabelledImages(
        paths=tuple(paths), pids=np.array(pids, dtype=np.int64), camids=np.array(camids, dtype=np.int64)
    )
