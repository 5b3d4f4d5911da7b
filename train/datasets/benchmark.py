"""What a reader of a data set returns, whatever its layout on disk."""

# N = images

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

Split = Literal["train", "query", "gallery"]
SUFFIXES = (".jpg", ".jpeg", ".png")
UNKNOWN = -1
"""Identity or camera of an image that has none given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """Images with identity and camera; index i means the same image in every array."""

    paths: tuple[Path, ...]
    pids: NDArray[np.int64]
    """`(N,)`; `UNKNOWN` where not labelled. In Market-1501, 0 is a distractor nobody asks for."""
    camids: NDArray[np.int64]
    """`(N,)`; `UNKNOWN` where not given."""
    tracklets: NDArray[np.int64] | None = None
    """`(N,)`; None where the layout has none."""

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A labelled data set: what is ranked, and what may be trained on."""

    root: Path
    name: str
    """E.g. `MSMT17 V2`."""
    train: LabelledImages | None
    """None where the folder has no training images."""
    query: LabelledImages
    gallery: LabelledImages


def image_files(folder: Path, *, deep: bool = False) -> list[Path]:
    """List the image files of a folder in the order of their names, with those of its sub-folders if `deep`.

    Names that begin with a dot are no images, whatever their suffix: macOS packs a `._NAME.jpg` beside each file.
    """
    paths = _walk(folder) if deep else folder.iterdir()
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, also behind links, each folder once: a link may lead back up."""
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(here, name) for name in names)


def require_images(images: LabelledImages, where: Path) -> LabelledImages:
    """Return the images.

    Raises:
        InputError: There are none.
    """
    if not len(images):
        raise InputError(f"{where} holds no images ({', '.join(SUFFIXES)}). Give a folder that does.")
    return images
