"""Which crops calibrate and which are held out: spread over cameras, time and looks, and never of one tracklet."""

# N = crops, H, W = input height and width, D = embedding, P = pixels of a thumbnail

from __future__ import annotations

import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np

from reidge.edge.bundle import Coverage
from reidge.edge.crops import CropFolder, read_crop_folder, read_image, report_unreadable, resize_crops
from reidge.edge.errors import InputError, ReidgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.crops import CropRecord, ResizeMethod

    Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """Crops at the encoder's input size to unit embeddings."""

T = TypeVar("T")
MIN_TRACKLETS_TO_SPLIT = 4
HELD_OUT_SHARE = 1 / 3
"""Of each camera's tracklets."""
TIME_SLOTS = 8
"""Equal parts of a camera's time, which take turns: a quiet night counts as much as a busy noon."""
CANDIDATES_PER_CROP = 4
"""Crops that are embedded for each one that is drawn."""
TWIN_SIMILARITY = 0.98
"""Two crops of one camera are near-duplicates when their embeddings are this similar..."""
TWIN_DIFFERENCE = 6.0
"""...and their thumbnails differ by less than this; mean grey levels."""
THUMBNAIL = (8, 16)
"""Width, height."""
MAX_UNREADABLE = 0.05
"""Share of crops that may be unreadable."""
FEW_CROPS = 64
"""Fewer calibration crops say too little about the largest activations."""
FEW_OF_CAMERA = TIME_SLOTS
"""Fewer calibration crops of a camera cannot show each part of its time."""
FEW_HELD_OUT = 32
"""Fewer held-out crops say too little about INT8: their first percentile is the worst of them, and a third of a crop's
neighbours or more are the same ten by chance, of 11 crops all. It is what `FEW_CROPS` leave to hold out."""
EMBED_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Indices into the records of a crop folder."""

    calibration: tuple[int, ...]
    held_out: tuple[int, ...]
    """Crops that never shaped a range."""
    near_duplicates: int = 0
    """Crops that were passed over because one that looks the same was drawn before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """How crops look, to the encoder and to the eye."""

    embeddings_ND: NDArray[np.float32]
    """Unit length."""
    thumbnails_NP: NDArray[np.float32]
    """Grey levels."""


def select_crops(
    records: Sequence[CropRecord],
    *,
    calibration_size: int,
    held_out_size: int,
    seed: int,
    look: Callable[[Sequence[int]], Looks] | None = None,
) -> Selection:
    """Draw calibration and held-out crops.

    A third of each camera's tracklets is held out, so that held-out crops show people who did not shape the ranges;
    with very few tracklets a third of the crops is. Held-out crops are drawn by turns alone (`take_turns`), like what
    the site sees; calibration crops are drawn from `CANDIDATES_PER_CROP` times as many for their looks (`spread`).

    Args:
        records: All crops, at least two, so that one can be held out.
        calibration_size: Most crops to calibrate on.
        held_out_size: Most crops to hold out.
        seed: Same seed, same records, same looks: same draw.
        look: Gives the looks of the crops at these indices; None draws calibration crops by turns alone.

    Raises:
        InputError: There is a single crop, which would be judged by what it shaped itself.
    """
    if len(records) < 2:
        raise InputError(
            f"crops to calibrate on: {len(records)}, none is left to check the ranges on. Harvest {FEW_CROPS} or more."
        )
    rng = random.Random(seed)
    calibration, held_out = split(records, rng)
    candidates_each = 1 if look is None else CANDIDATES_PER_CROP
    candidates = take_turns(records, calibration, candidates_each * calibration_size, rng)
    duplicates = 0
    if look is not None:
        cells = cells_of([records[index] for index in candidates])
        drawn, duplicates = spread(cells, look(candidates), calibration_size, rng)
        candidates = [candidates[place] for place in drawn]
    return Selection(
        calibration=tuple(candidates),
        held_out=tuple(take_turns(records, held_out, held_out_size, rng)),
        near_duplicates=duplicates,
    )


def split(records: Sequence[CropRecord], rng: random.Random) -> tuple[list[list[int]], list[list[int]]]:
    """Indices to calibrate on and to hold out, by tracklet where there are enough of them, else one by one."""
    by_tracklet: defaultdict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        by_tracklet[record.tracklet].append(index)
    groups = list(by_tracklet.values())
    if len(groups) < MIN_TRACKLETS_TO_SPLIT:
        groups = [[index] for index in range(len(records))]
    rng.shuffle(groups)
    by_camera: defaultdict[str, list[list[int]]] = defaultdict(list)
    for group in groups:
        by_camera[records[group[0]].camid].append(group)
    calibration: list[list[int]] = []
    held_out: list[list[int]] = []
    for camid in sorted(by_camera):
        cut = round(len(by_camera[camid]) * HELD_OUT_SHARE)
        held_out += by_camera[camid][:cut]
        calibration += by_camera[camid][cut:]
    if not held_out:  # as many cameras as tracklets, or two crops
        held_out, calibration = calibration[:1], calibration[1:]
    return calibration, held_out


def take_turns(
    records: Sequence[CropRecord], tracklets: Sequence[Sequence[int]], size: int, rng: random.Random
) -> list[int]:
    """Up to `size` indices: cameras take turns, within a camera its slots of time, within a slot its tracklets."""
    starts = cells_of([min((records[index] for index in group), key=lambda r: r.captured_at) for group in tracklets])
    by_cell: defaultdict[tuple[str, int], list[list[int]]] = defaultdict(list)
    for cell, tracklet in zip(starts, tracklets, strict=True):
        by_cell[cell].append(rng.sample(tracklet, len(tracklet)))
    by_camera: defaultdict[str, list[list[int]]] = defaultdict(list)
    for camid, slot in sorted(by_cell):
        by_camera[camid].append(interleave(by_cell[camid, slot]))
    return interleave([interleave(slots) for slots in by_camera.values()])[:size]


def cells_of(records: Sequence[CropRecord]) -> list[tuple[str, int]]:
    """Camera and slot of time of each crop; the slots cut each camera's time into `TIME_SLOTS` equal parts."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    for record in records:
        times[record.camid].append(record.captured_at)
    spans = {camid: (min(seen), max(max(seen) - min(seen), 1e-9)) for camid, seen in times.items()}
    cells = []
    for record in records:
        start, seconds = spans[record.camid]
        slot = min(int((record.captured_at - start) / seconds * TIME_SLOTS), TIME_SLOTS - 1)
        cells.append((record.camid, slot))
    return cells


def interleave(rows: Sequence[Sequence[T]]) -> list[T]:
    """First elements of all rows, then the second ones, and so on."""
    return [value for column in zip_longest(*rows, fillvalue=None) for value in column if value is not None]


def spread(cells: Sequence[tuple[str, int]], looks: Looks, size: int, rng: random.Random) -> tuple[list[int], int]:
    """Draw crops that look different, the cells of camera and time taking turns.

    In its turn a cell draws one of its crops with a chance in proportion to the squared distance of its embedding to
    the nearest one drawn so far (k-means++: Arthur & Vassilvitskii, SODA 2007). Taking the farthest one instead
    (k-center) would collect the failures of the detector. Near-duplicates of what was drawn are passed over: same
    camera, similar embedding and similar thumbnail, as an untrained encoder finds everything similar.

    Args:
        cells: Camera and slot of each crop, in the order in which they shall take turns.
        looks: Of the same crops.
        size: Most crops to draw.
        rng: Decides the draw.

    Returns:
        Places in `cells`, in the order drawn, and how many crops were passed over.
    """
    embeddings_ND, thumbnails_NP = looks.embeddings_ND, looks.thumbnails_NP
    camids_N = np.array([camid for camid, _ in cells])
    waiting = dict.fromkeys(cells)  # in order
    squared_N = np.full(len(cells), 4.0)  # the most that unit vectors can differ by
    places_of = {cell: np.array([at for at, other in enumerate(cells) if other == cell]) for cell in waiting}
    left_N = np.ones(len(cells), dtype=bool)
    drawn: list[int] = []
    duplicates = 0
    while waiting and len(drawn) < size:
        for cell in list(waiting):
            places = places_of[cell][left_N[places_of[cell]]]
            if not len(places) or len(drawn) == size:
                del waiting[cell]
                continue
            place = draw(places, squared_N[places], rng)
            drawn.append(place)
            left_N[place] = False
            similarities_N = embeddings_ND @ embeddings_ND[place]
            squared_N = np.minimum(squared_N, np.maximum(2 - 2 * similarities_N, 0))
            differences_N = np.abs(thumbnails_NP - thumbnails_NP[place]).mean(axis=1)
            twins_N = (similarities_N >= TWIN_SIMILARITY) & (differences_N < TWIN_DIFFERENCE)
            twins_N &= left_N & (camids_N == cell[0])
            duplicates += int(twins_N.sum())
            left_N &= ~twins_N
    return drawn, duplicates


def draw(places: NDArray[np.int64], weights: NDArray[np.float64], rng: random.Random) -> int:
    """One of the places by weight; any where all weights are zero."""
    return int(rng.choices(places.tolist(), weights.tolist() if weights.any() else None)[0])


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
    selection: Selection
    calibration_NHW3: NDArray[np.uint8]
    held_out_NHW3: NDArray[np.uint8]

    @property
    def coverage(self) -> Coverage:
        """What the calibration crops show."""
        chosen = [self.folder.records[index] for index in self.selection.calibration]
        times = [record.captured_at for record in chosen]
        cameras = dict.fromkeys(sorted({record.camid for record in self.folder.records}), 0)
        for record in chosen:
            cameras[record.camid] += 1
        return Coverage(
            cameras=cameras,
            tracklets=len({record.tracklet for record in chosen}),
            seconds=max(times) - min(times),
            near_duplicates=self.selection.near_duplicates,
        )


def read_crop_sets(
    root: Path,
    *,
    size: tuple[int, int],
    resize: ResizeMethod,
    calibration_size: int,
    held_out_size: int,
    seed: int,
    embed: Embed | None = None,
) -> CropSets:
    """Read a crop folder and draw from it; see `select_crops`.

    Args:
        root: The crop folder.
        size: Height and width of the encoder's input.
        resize: How crops are brought to it.
        calibration_size: Most crops to calibrate on.
        held_out_size: Most crops to hold out.
        seed: Of the draw.
        embed: The encoder, by which crops are told apart; None draws by camera and time alone.

    Raises:
        InputError: The folder is unusable, or too many of its crops are unreadable.
        ReidgeError: The encoder gives embeddings that are not finite.
    """
    folder = leave_out_unreadable(read_crop_folder(root))

    def read(indices: Sequence[int]) -> NDArray[np.uint8]:
        images = (read_image(root / folder.records[index].path) for index in indices)
        return resize_crops(images, size=size, method=resize)

    def look(indices: Sequence[int]) -> Looks:
        assert embed is not None
        batches = (read(indices[start : start + EMBED_BATCH]) for start in range(0, len(indices), EMBED_BATCH))
        parts = [(embed(crops_NHW3), thumbnails(crops_NHW3)) for crops_NHW3 in batches]
        embeddings_ND = np.concatenate([embedded for embedded, _ in parts])
        if not np.isfinite(embeddings_ND).all():
            raise ReidgeError("the encoder gives embeddings that are not finite. Train it again.")
        return Looks(embeddings_ND=embeddings_ND, thumbnails_NP=np.concatenate([small for _, small in parts]))

    selection = select_crops(
        folder.records,
        calibration_size=calibration_size,
        held_out_size=held_out_size,
        seed=seed,
        look=None if embed is None else look,
    )
    return CropSets(
        folder=folder,
        selection=selection,
        calibration_NHW3=read(selection.calibration),
        held_out_NHW3=read(selection.held_out),
    )


def thumbnails(crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, P)` grey levels of crops made very small."""
    grey = (cv2.cvtColor(crop_HW3, cv2.COLOR_BGR2GRAY) for crop_HW3 in crops_NHW3)
    small = [cv2.resize(image, THUMBNAIL, interpolation=cv2.INTER_AREA).ravel() for image in grey]
    return np.array(small, dtype=np.float32)


def weaknesses(coverage: Coverage, *, held_out: int) -> tuple[str, ...]:
    """What calibration crops, and so many held-out ones, fail to show, one line each."""
    lines = []
    crops = sum(coverage.cameras.values())
    used = [camid for camid, count in coverage.cameras.items() if count]
    unseen = [camid for camid, count in coverage.cameras.items() if not count]
    if crops < FEW_CROPS:
        duplicates = f" ({coverage.near_duplicates} look like another one)" if coverage.near_duplicates else ""
        lines.append(f"few calibration crops: {crops}{duplicates}, better {FEW_CROPS} or more. Harvest more footage.")
    if held_out < FEW_HELD_OUT:
        lines.append(
            f"few held-out crops: {held_out}, better {FEW_HELD_OUT} or more: a gate that is passed on so few shows "
            "little. Harvest more footage."
        )
    if len(used) == 1:
        lines.append(
            f"all calibration crops come from one camera, {used[0]}: INT8 and the match threshold are checked for no "
            "other. Harvest footage of every camera of the site."
        )
    elif unseen:
        lines.append(f"no calibration crop shows {', '.join(unseen)}: harvest more footage of these cameras.")
    rare = [f"{camid} {count}" for camid, count in coverage.cameras.items() if 0 < count < FEW_OF_CAMERA]
    if rare and len(used) > 1:
        lines.append(
            f"few calibration crops of a camera: {', '.join(rare)}, better {FEW_OF_CAMERA} or more. Harvest more "
            "footage of it."
        )
    return tuple(lines)
