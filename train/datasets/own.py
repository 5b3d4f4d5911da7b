"""Own images: told by a table, by their names, or only by the folder of their camera."""

# N = images

from __future__ import annotations

import csv
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, get_args

import numpy as np

from reidge.edge.errors import InputError
from reidge.train.datasets.benchmark import UNKNOWN, LabelledImages, Split, image_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

SPLITS: Mapping[str, Split] = {**{split: split for split in get_args(Split)}, "test": "gallery"}
COLUMNS = ("path", "pid", "camid", "tracklet", "split")
GROUPS = COLUMNS[1:]
JUNK = "-1"
"""Identity of a box that is not a person, as in Market-1501."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnImage:
    """What is known of one image; empty where it is not told."""

    path: Path
    pid: str = ""
    camid: str = ""
    tracklet: str = ""
    split: str = ""
    """A key of `SPLITS`; where no image has one, all are trained on, and each asks for all others."""


def read_table(root: Path, table: Path) -> list[OwnImage]:
    """Read a CSV file with the column `path`, relative to `root`, and any of `pid,camid,tracklet,split`.

    Raises:
        InputError: The table cannot be read, lacks `path`, or has a line that cannot be used.
    """
    images = []
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "path" not in (reader.fieldnames or ()):
                raise InputError(
                    f"{table} has no column path. Give it the columns {','.join(COLUMNS)}; path is needed."
                )
            for row in reader:
                values = {name: (row.get(name) or "").strip() for name in COLUMNS}
                path = PurePosixPath(values.pop("path"))
                where = f"{table}, line {reader.line_num}"
                if not path.name or path.is_absolute() or ".." in path.parts:
                    raise InputError(
                        f"{where}: the path {str(path)!r} is not one below {root}. Mend or remove the line."
                    )
                images.append(_checked(OwnImage(path=root / path, **values), where))
    except OSError as error:
        raise InputError(f"{table} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} is no CSV file ({error}). Save it as UTF-8 with commas.") from error
    return images


def match_names(root: Path, pattern: str) -> list[OwnImage]:
    r"""Read all images below `root` whose path a regular expression is found in.

    Args:
        root: The folder.
        pattern: With any of the named groups `pid`, `camid`, `tracklet` and `split`, e.g.
            `(?P<camid>cam\d+)/(?P<pid>\d+)_`; searched for in the path below `root`, with `/` between folders.

    Raises:
        InputError: It is no regular expression, names none of the groups, or is found in no path.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"the pattern {pattern!r} is no regular expression: {error}.") from error
    if not set(expression.groupindex) & set(GROUPS) or not set(expression.groupindex) <= set(GROUPS):
        raise InputError(
            f"the pattern {pattern!r} must name its groups after what they tell: {', '.join(GROUPS)}. E.g. "
            r"(?P<camid>cam\d+)/(?P<pid>\d+)_"
        )
    images, others = [], []
    for path in image_files(root, deep=True):
        name = path.relative_to(root).as_posix()
        match = expression.search(name)
        if match is None:
            others.append(name)
        else:
            told = {group: text or "" for group, text in match.groupdict().items()}
            images.append(_checked(OwnImage(path=path, **told), str(path)))
    if others and not images:
        raise InputError(
            f"the pattern {pattern!r} is found in none of the {len(others)} images, e.g. not in {others[0]}."
        )
    if others:
        total = len(images) + len(others)
        _warn(f"{len(others)} of {total} images in {root} do not match the pattern ({others[0]}, ...) and are left out")
    return images


def read_camera_folders(root: Path) -> list[OwnImage]:
    """Read a folder that holds a folder of images for each camera.

    Where every image lies in a further folder, those are the tracklets. An image in no folder at all has no camera.
    """
    images = [(path, path.relative_to(root).parts) for path in image_files(root, deep=True)]
    deep = all(len(parts) > 2 for _, parts in images)
    return [
        OwnImage(
            path=path,
            camid=parts[0] if len(parts) > 1 else "",
            tracklet="/".join(parts[:-1]) if deep else "",
        )
        for path, parts in images
    ]


def select(images: Sequence[OwnImage], split: Split, where: Path) -> LabelledImages:
    """Return the images of a split, with identities, cameras and tracklets as numbers that all splits share.

    Numbers stay as they are; other names are numbered in their order.

    Raises:
        InputError: There are none, or they cannot be ranked: an identity or all cameras are missing.
    """
    images = [image for image in images if image.pid != JUNK]
    pids, camids = _numbers(image.pid for image in images), _numbers(image.camid for image in images)
    tracklets = _numbers(image.tracklet for image in images)
    whole = not any(image.split for image in images)
    chosen = np.flatnonzero([whole or SPLITS.get(image.split) == split for image in images])
    if not len(chosen):
        raise InputError(f"{where} has no images{'' if whole else ' of split ' + split}. Give a folder that does.")
    if split != "train" and (pids[chosen] == UNKNOWN).any():
        unknown = int((pids[chosen] == UNKNOWN).sum())
        raise InputError(f"{unknown} of the {len(chosen)} {split} images in {where} have no pid to score with. Add it.")
    if split != "train" and (camids[chosen] == UNKNOWN).all():
        raise InputError(
            f"no {split} image in {where} has a camid, and people are looked for in other cameras. Add it."
        )
    return LabelledImages(
        paths=tuple(images[i].path for i in chosen),
        pids=pids[chosen],
        camids=camids[chosen],
        tracklets=None if (tracklets[chosen] == UNKNOWN).any() else tracklets[chosen],
    )


def _checked(image: OwnImage, where: str) -> OwnImage:
    if image.split and image.split not in SPLITS:
        raise InputError(f"{where}: the split {image.split!r} is none of {', '.join(SPLITS)}.")
    return image


def _numbers(names: Iterable[str]) -> NDArray[np.int64]:
    texts = list(names)
    known = sorted({text for text in texts if text})
    plain = all(text.isdecimal() for text in known) and len({int(text) for text in known}) == len(known)
    numbers = {text: int(text) if plain else number for number, text in enumerate(known)}
    return np.array([numbers.get(text, UNKNOWN) for text in texts], dtype=np.int64)


def _warn(message: str) -> None:
    print(f"warning: {message}.", file=sys.stderr, flush=True)
