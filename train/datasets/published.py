"""How many images and identities the data sets have, as published, to notice a copy that is not whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reidge.train.datasets.benchmark import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from reidge.train.datasets.benchmark import LabelledImages, Split


@dataclass(frozen=True, slots=True)
class Count:
    """What a split has."""

    images: int
    identities: int | None
    """People or vehicles; None where no number is published."""

    def __str__(self) -> str:
        return f"{self.images} images" + ("" if self.identities is None else f" of {self.identities} identities")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The counts of a data set."""

    train: Count
    query: Count
    gallery: Count

    def differences(self, parts: Mapping[Split, LabelledImages]) -> list[str]:
        """Name the splits that are not as published, with both counts."""
        found = []
        for split, images in parts.items():
            wanted: Count = getattr(self, split)
            got = Count(len(images), None if wanted.identities is None else _known(images.pids))
            if got != wanted:
                found.append(f"{split} has {got}, not {wanted}")
        return found

    def times(self, parts: int) -> Published:
        """Counts of several such sets of the same people."""
        one = {"train": self.train, "query": self.query, "gallery": self.gallery}
        return Published(**{split: Count(parts * count.images, count.identities) for split, count in one.items()})


def describe(images: LabelledImages) -> str:
    """Say how many images there are, of how many identities and from how many cameras, as far as is known."""
    identities, cameras = _known(images.pids), _known(images.camids)
    return (
        f"{len(images)} images"
        + (f" of {identities} identities" if identities else "")
        + (f" from {cameras} cameras" if cameras else "")
    )


def _known(ids_N: NDArray[np.int64]) -> int:
    return len(np.unique(ids_N[ids_N != UNKNOWN]))


# Market-1501's gallery folder holds 19732 files. 3819 are junk, which is left out; distractors stay, who are no
# identity but would be counted as one.
PUBLISHED: Mapping[str, Published] = {
    "market1501": Published(train=Count(12936, 751), query=Count(3368, 750), gallery=Count(15913, None)),
    "dukemtmc": Published(train=Count(16522, 702), query=Count(2228, 702), gallery=Count(17661, 1110)),
    "msmt17": Published(train=Count(32621, 1041), query=Count(11659, 3060), gallery=Count(82161, 3060)),
    "personx": Published(train=Count(9840, 410), query=Count(5136, 856), gallery=Count(30816, 856)),
    "veri776": Published(train=Count(37778, 576), query=Count(1678, 200), gallery=Count(11579, 200)),
}
# One background of PersonX's first release: all 36 viewpoints of each person, and one of them as the query.
PERSONX_BACKGROUND = Published(train=Count(14760, 410), query=Count(856, 856), gallery=Count(30816, 856))
