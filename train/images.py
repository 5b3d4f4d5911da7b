"""The crops a run trains on: read once, kept resized in memory, joined with camera and tracklet by position."""

# N = crops, B = batch, H, W = input height and width

from __future__ import annotations

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.crops import ResizeMethod, read_image, report_unreadable, resize_crops
from reidge.edge.errors import InputError
from reidge.edge.progress import Progress
from reidge.train.datasets.benchmark import UNKNOWN
from reidge.train.datasets.layouts import LayoutName, find_layout
from reidge.train.decoder import Decoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class DataConfig(BaseModel, frozen=True, extra="forbid"):
    """Where crops come from and how they are kept."""

    layout: LayoutName = "auto"
    """How the folder is read; `auto` looks."""
    pattern: str | None = None
    """Regular expression with the groups `pid`, `camid`, `tracklet` or `split`, searched for in the path of each image
    below the folder."""
    csv: Path | None = None
    """Table with the column `path`, relative to the folder, and any of `pid,camid,tracklet,split`."""
    cache_gib: float = Field(8.0, ge=0)
    """Memory for decoded crops in GiB; a larger set is decoded anew for every batch."""
    max_unreadable: float = Field(0.05, ge=0, le=1)
    """Share of unreadable files above which training does not start, or stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingImages:
    """The readable crops of a folder; index i means the same crop in every array."""

    paths: tuple[Path, ...]
    camids: NDArray[np.int64]
    """`(N,)`, cameras numbered in their order from 0; -1 where not known."""
    tracklets: NDArray[np.int64] | None
    """`(N,)`, tracklets numbered in their order from 0; None where the layout has none."""
    pids: NDArray[np.int64] | None
    """`(N,)`, who it is; None where not all are labelled. Training without labels never looks at them."""
    size: tuple[int, int]
    """Height and width in pixels."""
    resize: ResizeMethod
    pixels: NDArray[np.uint8] | None
    """`(N, H, W, 3)` BGR; None where it would not fit into the memory allowed."""
    decoder: Decoder
    """Of the files, where there are no pixels."""
    left_out: frozenset[str]
    """Paths below the folder of the files that could not be read to begin with."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def unreadable(self) -> frozenset[int]:
        """Crops that could be read at first and no longer can; `take` returns black for them."""
        return self.decoder.unreadable

    def take(self, indices_B: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the crops at these positions, `(B, H, W, 3)` BGR.

        Raises:
            ReidgeError: More than `DataConfig.max_unreadable` of the files have become unreadable.
        """
        return self.decoder.read(indices_B) if self.pixels is None else self.pixels[indices_B]

    def fingerprint(self) -> str:
        """Hash of names, cameras and tracklets: whether a resumed run sees the same crops in the same order."""
        text = "\n".join(path.name for path in self.paths)
        digest = hashlib.sha256(text.encode())
        digest.update(self.camids.tobytes())
        digest.update(b"" if self.tracklets is None else self.tracklets.tobytes())
        return digest.hexdigest()


def read_training_images(
    root: Path,
    config: DataConfig,
    *,
    size: tuple[int, int],
    resize: ResizeMethod,
    left_out: frozenset[str] | None = None,
    quiet: bool = False,
) -> TrainingImages:
    """Read a crop folder, or the training images of a data set.

    What was recognised is said in one line on stderr, and so is a difference from published counts. Unreadable files
    are left out, counted and named in one line, and so are cameras that are not known.

    Args:
        root: A folder of any layout that `find_layout` knows.
        config: Which layout, and how crops are kept.
        size: Height and width in pixels.
        resize: How crops are brought there.
        left_out: On resuming, what the run began without: just that is left out again, so that every other file keeps
            its place, as `unreadable` where it has become so.
        quiet: Whether to say nothing, as all but one of several processes do.

    Raises:
        InputError: There are no crops, or more than `config.max_unreadable` of them are unreadable.
    """
    layout = find_layout(root, config.layout, pattern=config.pattern, csv=config.csv)
    images = layout.read("train")
    if not quiet:
        layout.say({"train": images})
        _warn_of_unknown_cameras(images.camids)
    pixels, readable = _decode_all(images.paths, config, size=size, resize=resize, quiet=quiet)
    names = [os.path.relpath(path, root) for path in images.paths]
    kept = readable if left_out is None else np.array([name not in left_out for name in names], dtype=bool)
    keep = np.flatnonzero(kept)
    unreadable = [images.paths[i] for i in np.flatnonzero(~readable)]
    report_unreadable(
        root,
        unreadable,
        total=len(images),
        max_share=config.max_unreadable,
        otherwise="allow more with --set data.max_unreadable=SHARE",
    )
    paths = tuple(images.paths[i] for i in keep)
    decoder = Decoder(
        paths,
        size=size,
        resize=resize,
        max_unreadable=config.max_unreadable,
        unreadable=frozenset(np.flatnonzero(~readable[keep]).tolist()),
    )
    return TrainingImages(
        paths=paths,
        camids=_numbered(images.camids)[keep],
        tracklets=None if images.tracklets is None else _numbered(images.tracklets[keep]),
        pids=None if (images.pids == UNKNOWN).any() else images.pids[keep],
        size=size,
        resize=resize,
        pixels=None if pixels is None else _compacted(pixels, keep),
        decoder=decoder,
        left_out=frozenset(name for name, has in zip(names, kept, strict=True) if not has),
    )


def _decode_all(
    paths: Sequence[Path], config: DataConfig, *, size: tuple[int, int], resize: ResizeMethod, quiet: bool
) -> tuple[NDArray[np.uint8] | None, NDArray[np.bool_]]:
    """Decode every file once; return the crops if they fit into memory, and which files could be read."""
    fits = len(paths) * size[0] * size[1] * 3 <= config.cache_gib * 2**30
    pixels = np.zeros((len(paths) if fits else 0, *size, 3), dtype=np.uint8)
    readable = np.zeros(len(paths), dtype=bool)

    def load(index: int) -> None:
        try:
            image = read_image(paths[index])
        except InputError:
            return
        if fits:
            pixels[index] = resize_crops([image], size=size, method=resize)[0]
        readable[index] = True

    progress = Progress("read crops", total=len(paths), unit="crops", quiet=quiet)
    with progress, ThreadPoolExecutor(os.cpu_count()) as threads:
        for _ in threads.map(load, range(len(paths))):
            progress.advance()
    return pixels if fits else None, readable


def _compacted(pixels: NDArray[np.uint8], keep: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Move the rows to keep to the front, in place: a second copy might not fit into memory."""
    for row, index in enumerate(keep):
        if row != index:
            pixels[row] = pixels[index]
    return pixels[: len(keep)]


def _numbered(names_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number what is known from 0 without gaps."""
    numbers_N = names_N.copy()
    known = names_N != UNKNOWN
    numbers_N[known] = np.unique(names_N[known], return_inverse=True)[1].reshape(-1)
    return numbers_N


def _warn_of_unknown_cameras(camids_N: NDArray[np.int64]) -> None:
    unknown = int((camids_N == UNKNOWN).sum())
    if unknown:
        print(
            f"warning: the cameras of {unknown} of {len(camids_N)} crops are unknown, so a batch cannot be drawn "
            "across cameras. Put each camera's crops into a folder of their own, or see docs/data.md.",
            file=sys.stderr,
            flush=True,
        )
