"""Which crops calibrate and which are held out: spread over cameras and time, and never of one tracklet."""

# N = crops, H, W = input height and width

from __future__ import annotations

import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeVar

from reidge.edge.crops import CropFolder, read_crop_folder, read_image, report_unreadable, resize_crops
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from reidge.edge.crops import CropRecord, ResizeMethod

T = TypeVar("T")
MIN_TRACKLETS_TO_SPLIT = 4
MAX_UNREADABLE = 0.05
"""Share of crops that may be unreadable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Indices into the records of a crop folder."""

    calibration: tuple[int, ...]
    held_out: tuple[int, ...]
    """Crops that never shaped a range; equal to `calibration` where there is a single crop."""


def select_crops(records: Sequence[CropRecord], *, calibration_size: int, held_out_size: int, seed: int) -> Selection:
    """Draw calibration and held-out crops, taking turns over cameras and, within a camera, over tracklets.

    A third of the tracklets is held out, so that held-out crops show people who did not shape the ranges; with very
    few tracklets a third of the crops is.

    Args:
        records: All crops, at least one.
        calibration_size: Most crops to calibrate on.
        held_out_size: Most crops to hold out.
        seed: Same seed, same records, same draw.
    """
    rng = random.Random(seed)
    by_tracklet: defaultdict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        by_tracklet[record.tracklet].append(index)
    if len(by_tracklet) >= MIN_TRACKLETS_TO_SPLIT:
        groups = list(by_tracklet.values())
    else:
        groups = [[index] for index in range(len(records))]
    rng.shuffle(groups)
    cut = max(1, len(groups) // 3)
    held_out, calibration = groups[:cut], groups[cut:] or groups[:cut]
    return Selection(
        calibration=take_turns(records, calibration, calibration_size, rng),
        held_out=take_turns(records, held_out, held_out_size, rng),
    )


def take_turns(
    records: Sequence[CropRecord], tracklets: Sequence[Sequence[int]], size: int, rng: random.Random
) -> tuple[int, ...]:
    """Up to `size` indices: one crop of each camera in turn, each from the camera's next tracklet."""
    by_camera: defaultdict[str, list[list[int]]] = defaultdict(list)
    for tracklet in tracklets:
        by_camera[records[tracklet[0]].camid].append(rng.sample(tracklet, len(tracklet)))
    return tuple(interleave([interleave(by_camera[camid]) for camid in sorted(by_camera)])[:size])


def interleave(rows: Sequence[Sequence[T]]) -> list[T]:
    """First elements of all rows, then the second ones, and so on."""
    return [value for column in zip_longest(*rows, fillvalue=None) for value in column if value is not None]


def leave_out_unreadable(folder: CropFolder) -> CropFolder:
    """Drop crops that cannot be decoded, with one line that names them.

    Raises:
        InputError: They are more than `MAX_UNREADABLE` of all.
    """
    with ThreadPoolExecutor() as threads:
        readable = list(threads.map(is_readable, (folder.root / record.path for record in folder.records)))
    report_unreadable(
        folder.root,
        [folder.root / record.path for record, ok in zip(folder.records, readable, strict=True) if not ok],
        total=len(folder),
        max_share=MAX_UNREADABLE,
        otherwise="harvest it again",
    )
    return replace(folder, records=tuple(r for r, ok in zip(folder.records, readable, strict=True) if ok))


def is_readable(path: Path) -> bool:
    """Tell whether an image file decodes."""
    try:
        read_image(path)
    except InputError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class CropSets:
    """Calibration and held-out crops at the encoder's input size."""

    folder: CropFolder
    calibration_NHW3: NDArray[np.uint8]
    held_out_NHW3: NDArray[np.uint8]


def read_crop_sets(
    root: Path, *, size: tuple[int, int], resize: ResizeMethod, calibration_size: int, held_out_size: int, seed: int
) -> CropSets:
    """Read a crop folder and draw from it; see `select_crops`.

    Raises:
        InputError: The folder is unusable, or too many of its crops are unreadable.
    """
    folder = leave_out_unreadable(read_crop_folder(root))
    selection = select_crops(folder.records, calibration_size=calibration_size, held_out_size=held_out_size, seed=seed)
    calibration_NHW3, held_out_NHW3 = (
        resize_crops((read_image(root / folder.records[index].path) for index in chosen), size=size, method=resize)
        for chosen in (selection.calibration, selection.held_out)
    )
    return CropSets(folder=folder, calibration_NHW3=calibration_NHW3, held_out_NHW3=held_out_NHW3)
