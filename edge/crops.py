"""The crop folder: person images and where each came from, without any identity label.

The contract between harvest, which writes it, and train, calibration and export, which read it:
`crops.csv` beside JPEG files.
"""

# N = crops, H, W = height and width of a crop

from __future__ import annotations

import csv
import math
import sys
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from reidge.edge.errors import InputError
from reidge.edge.folder import require_free, whole_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

INDEX_NAME = "crops.csv"
JPEG_QUALITY = 95
NAMES_SHOWN = 3
"""Unreadable crops that are named; the others are counted."""
ResizeMethod = Literal["linear", "cubic", "area"]
INTERPOLATIONS: dict[ResizeMethod, int] = {
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRecord:
    """One row of `crops.csv`; the fields are its columns, in order."""

    path: str
    """Of the JPEG file, relative to the crop folder."""
    camid: str
    tracklet: str
    """Run of one person in one camera; unique within the folder."""
    captured_at: float
    """Seconds since the epoch, UTC."""
    x1: float
    """Left edge of the box in pixels of the source frame; likewise the next three."""
    y1: float
    x2: float
    y2: float
    score: float
    """Detector confidence, 0 to 1."""
    sharpness: float
    """Variance of the Laplacian of the grey crop at its own size; larger is sharper."""


COLUMNS = tuple(field.name for field in fields(CropRecord))


@dataclass(frozen=True, slots=True, kw_only=True)
class CropFolder:
    """A crop folder that was read: records in the order of `crops.csv`."""

    root: Path
    records: tuple[CropRecord, ...]

    def __len__(self) -> int:
        return len(self.records)


class CropWriter:
    """Writes a crop folder so that a failure leaves nothing half-written behind.

    Everything goes to a sibling folder first, which takes the final name when the `with` ends well.

    Raises:
        InputError: `root` exists and is not an empty folder, or has no name of its own.
    """

    def __init__(self, root: Path) -> None:
        require_free(root)
        self.records: list[CropRecord] = []
        self._root = root
        self._stack = ExitStack()

    def __enter__(self) -> CropWriter:
        self._partial = self._stack.enter_context(whole_folder(self._root))
        return self

    def add(self, image_HW3: NDArray[np.uint8], record: CropRecord) -> None:
        """Write one crop, `(H, W, 3)` BGR, as `record.path`."""
        path = self._partial / record.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_picture(image_HW3))
        self.records.append(record)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack, (self._partial / INDEX_NAME).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(astuple(record) for record in self.records)


def read_crop_folder(root: Path) -> CropFolder:
    """Read `crops.csv` of a crop folder; the images stay on disk.

    Raises:
        InputError: The folder or its index is missing, empty, or a row does not parse.
    """
    index = root / INDEX_NAME
    if not index.is_file():
        raise InputError(f"{root} is not a crop folder: {INDEX_NAME} is missing. Make one with: reidge harvest")
    records = []
    try:
        with index.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{index} lacks the columns {', '.join(missing)}. Make it again with: reidge harvest")
            for row in reader:
                try:
                    records.append(_parse(row))
                except (TypeError, ValueError) as error:
                    raise InputError(f"{index}, line {reader.line_num}: {error}. Mend or remove the line.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{index} is no CSV file ({error}). Make it again with: reidge harvest") from error
    if not records:
        raise InputError(
            f"{index} lists no crops: nobody was found in the footage. Check the cameras and the detector."
        )
    return CropFolder(root=root, records=tuple(records))


def _parse(row: Mapping[str, str]) -> CropRecord:
    if None in row.values():
        raise ValueError("it has too few columns")
    path = PurePosixPath(row["path"])
    if path.is_absolute() or ".." in path.parts:  # a folder from elsewhere must not make us read, and pass on, others
        raise ValueError(f"the path {row['path']!r} leads out of the folder")
    return CropRecord(
        path=row["path"],
        camid=row["camid"],
        tracklet=row["tracklet"],
        captured_at=_number(row, "captured_at"),
        x1=_number(row, "x1"),
        y1=_number(row, "y1"),
        x2=_number(row, "x2"),
        y2=_number(row, "y2"),
        score=_number(row, "score"),
        sharpness=_number(row, "sharpness"),
    )


def _number(row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):  # a time that is no number has no place among the others
        raise ValueError(f"{column} is {row[column]!r}, which is no number")
    return value


def encode_picture(image_HW3: NDArray[np.uint8]) -> bytes:
    """A picture, `(H, W, 3)` BGR, as JPEG."""
    encoded, data = cv2.imencode(".jpg", image_HW3, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert encoded, image_HW3.shape
    return data.tobytes()


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to `(H, W, 3)` BGR.

    Raises:
        InputError: The file is missing or not a readable image.
    """
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except cv2.error:  # a damaged header may claim more pixels than OpenCV agrees to
        image = None
    if image is None:
        raise InputError(f"{path} is not a readable image ({len(data)} bytes). Remove it or restore it.")
    return np.asarray(image, dtype=np.uint8)


def report_unreadable(root: Path, unreadable: Sequence[Path], *, total: int, max_share: float, otherwise: str) -> None:
    """Say in one line on stderr which of `total` crops are left out because they cannot be read; nothing for none.

    Raises:
        InputError: They are more than `max_share` of all; `otherwise` is what to do but restoring the folder.
    """
    if not unreadable:
        return
    names = ", ".join(path.name for path in unreadable[:NAMES_SHOWN]) + (", ..." if unreadable[NAMES_SHOWN:] else "")
    what = f"{len(unreadable)} of {total} crops in {root} cannot be read ({names})"
    if len(unreadable) > max_share * total:
        raise InputError(f"{what}, more than {max_share:.0%}. Restore the folder, or {otherwise}.")
    print(f"warning: {what} and are left out.", file=sys.stderr, flush=True)


def resize_crops(
    images: Iterable[NDArray[np.uint8]], *, size: tuple[int, int], method: ResizeMethod = "linear"
) -> NDArray[np.uint8]:
    """Bring crops to the encoder's input size, the same way in training, calibration and on the edge.

    Args:
        images: Crops `(h, w, 3)` BGR of any size, none empty.
        size: Height and width of the result.
        method: OpenCV interpolation.

    Returns:
        `(N, H, W, 3)` uint8 BGR, contiguous; `(0, H, W, 3)` for no images.
    """
    height, width = size
    resized = [cv2.resize(image, (width, height), interpolation=INTERPOLATIONS[method]) for image in images]
    return np.stack(resized) if resized else np.empty((0, height, width, 3), dtype=np.uint8)
