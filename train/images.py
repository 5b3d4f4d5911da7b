"""The crops a run trains on: read once, kept resized in memory, joined with camera and tracklet by position."""

# N = crops, B = batch, H, W = input height and width

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.crops import ResizeMethod, read_crop_folder, read_image, report_unreadable, resize_crops
from reidge.edge.errors import InputError
from reidge.edge.progress import Progress
from reidge.train.datasets.market1501 import TRAIN, read_images

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class DataConfig(BaseModel, frozen=True, extra="forbid"):
    """How crops are kept."""

    cache_gib: float = Field(8.0, ge=0)
    """Memory for decoded crops in GiB; a larger set is decoded anew for every batch."""
    max_unreadable: float = Field(0.05, ge=0, le=1)
    """Share of unreadable files above which training does not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingImages:
    """The readable crops of a folder; index i means the same crop in every array."""

    paths: tuple[Path, ...]
    camids: NDArray[np.int64]
    """`(N,)`, cameras numbered in the order of their names."""
    tracklets: NDArray[np.int64] | None
    """`(N,)`, tracklets numbered in the order of their names; None where the layout has none."""
    size: tuple[int, int]
    """Height and width in pixels."""
    resize: ResizeMethod
    pixels: NDArray[np.uint8] | None
    """`(N, H, W, 3)` BGR; None where it would not fit into the memory allowed."""

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices_B: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the crops at these positions, `(B, H, W, 3)` BGR."""
        if self.pixels is not None:
            return self.pixels[indices_B]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            images = threads.map(read_image, [self.paths[i] for i in indices_B])
            return resize_crops(images, size=self.size, method=self.resize)

    def fingerprint(self) -> str:
        """Hash of names, cameras and tracklets: whether a resumed run sees the same crops in the same order."""
        text = "\n".join(path.name for path in self.paths)
        digest = hashlib.sha256(text.encode())
        digest.update(self.camids.tobytes())
        digest.update(b"" if self.tracklets is None else self.tracklets.tobytes())
        return digest.hexdigest()


def read_training_images(
    root: Path, config: DataConfig, *, size: tuple[int, int], resize: ResizeMethod
) -> TrainingImages:
    """Read a crop folder, or the training images of a benchmark folder without their labels.

    Unreadable files are left out, counted and named in one line on stderr.

    Raises:
        InputError: There are no crops, or more than `config.max_unreadable` of them are unreadable.
    """
    paths, camids, tracklets = _read_index(root)
    fits = len(paths) * size[0] * size[1] * 3 <= config.cache_gib * 2**30
    pixels = np.empty((len(paths) if fits else 0, *size, 3), dtype=np.uint8)
    readable = np.zeros(len(paths), dtype=bool)

    def load(index: int) -> None:
        try:
            image = read_image(paths[index])
        except InputError:
            return
        if fits:
            pixels[index] = resize_crops([image], size=size, method=resize)[0]
        readable[index] = True

    with Progress("read crops", total=len(paths), unit="crops") as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(load, range(len(paths))):
            progress.advance()
    report_unreadable(
        root,
        [path for path, ok in zip(paths, readable, strict=True) if not ok],
        total=len(paths),
        max_share=config.max_unreadable,
        otherwise="allow more with --set data.max_unreadable=SHARE",
    )
    keep = np.flatnonzero(readable)
    return TrainingImages(
        paths=tuple(path for path, ok in zip(paths, readable, strict=True) if ok),
        camids=_numbered(camids)[keep],
        tracklets=None if tracklets is None else _numbered(np.array(tracklets)[keep]),
        size=size,
        resize=resize,
        pixels=(pixels if readable.all() else pixels[keep]) if fits else None,
    )


def _read_index(root: Path) -> tuple[Sequence[Path], Sequence[str], Sequence[str] | None]:
    if (root / TRAIN).is_dir():
        images = read_images(root / TRAIN)
        return images.paths, [f"{camid:09d}" for camid in images.camids], None
    records = read_crop_folder(root).records
    return [root / r.path for r in records], [r.camid for r in records], [r.tracklet for r in records]


def _numbered(names: Iterable[str]) -> NDArray[np.int64]:
    return np.unique(np.asarray(list(names)), return_inverse=True)[1].reshape(-1).astype(np.int64)
