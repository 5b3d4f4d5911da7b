"""Which layout a folder has, and how it is read."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from reidge.edge.crops import INDEX_NAME, read_crop_folder
from reidge.edge.errors import InputError
from reidge.train.datasets.benchmark import Split
from reidge.train.datasets.market1501 import MARKET_FOLDERS, VERI_FOLDERS, join, read_named_images
from reidge.train.datasets.msmt17 import find_version, read_msmt17
from reidge.train.datasets.own import SPLITS, OwnImage, match_names, read_camera_folders, read_table, select
from reidge.train.datasets.published import PERSONX_BACKGROUND, PUBLISHED, Published, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from reidge.train.datasets.benchmark import LabelledImages

LayoutName = Literal[
    "auto", "market1501", "dukemtmc", "msmt17", "personx", "veri776", "csv", "pattern", "crops", "cameras"
]
"""`crops` is a folder with a `crops.csv`, `cameras` one with a folder of images for each camera."""
TITLES = {
    "market1501": "Market-1501",
    "dukemtmc": "DukeMTMC-reID",
    "msmt17": "MSMT17",
    "personx": "PersonX",
    "veri776": "VeRi-776",
}
"""Data sets that have published counts."""
MARKERS = {"market": "market1501", "duke": "dukemtmc", "msmt17": "msmt17", "personx": "personx"}
"""Words in a folder's name that tell data sets apart which look alike."""
EVERY_SPLIT: frozenset[Split] = frozenset(get_args(Split))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A folder whose layout is known."""

    name: str
    """For people, e.g. `MSMT17 V2`."""
    root: Path
    splits: frozenset[Split]
    """What is there."""
    read: Callable[[Split], LabelledImages]
    """Raises `InputError` where the split is not there or cannot be read."""
    published: Published | None = None

    def read_if_there(self, split: Split) -> LabelledImages | None:
        """Read a split; None where it is missing altogether."""
        return self.read(split) if split in self.splits else None

    def say(self, parts: Mapping[Split, LabelledImages]) -> None:
        """Say on stderr what was read, and in a second line how it differs from what was published."""
        described = ", ".join(f"{split} {describe(images)}" for split, images in parts.items())
        print(f"{self.name} in {self.root}: {described}", file=sys.stderr, flush=True)
        differences = self.published.differences(parts) if self.published else []
        if differences:
            print(
                f"warning: {self.root} is not {self.name} as published: {'; '.join(differences)}. Figures will not "
                "compare with published ones.",
                file=sys.stderr,
                flush=True,
            )


def find_layout(
    root: Path, layout: LayoutName = "auto", *, pattern: str | None = None, csv: Path | None = None
) -> Layout:
    """Recognise the layout of a folder, or of the only data set in it.

    Args:
        root: What was unpacked.
        layout: How to read it; `auto` looks, and takes `csv` or `pattern` where that is given.
        pattern: See `match_names`.
        csv: See `read_table`.

    Raises:
        InputError: The folder does not exist, is not of that layout, or holds several that could be meant.
    """
    if layout not in get_args(LayoutName):
        raise InputError(f"there is no layout {layout!r}. Give one of: {', '.join(get_args(LayoutName))}.")
    if not root.is_dir():
        raise InputError(f"{root} is no folder. Give a crop folder, or the folder of a data set as it was unpacked.")
    _check_given(layout, pattern=pattern, csv=csv)
    if csv is not None:
        return _told(root, csv, read_table(root, csv))
    if pattern is not None:
        return _told(root, root, match_names(root, pattern))
    if layout == "cameras":
        return _cameras(root)
    found = _one(root, layout) or _inside(root, layout)
    if found is None and layout != "auto":
        raise InputError(f"{root} has not the layout {layout}: docs/data.md shows it. Mend it, or give another layout.")
    return found or _cameras(root)


def _check_given(layout: str, **own: object) -> None:
    given = [name for name, value in own.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} both tell who is where. Give one of them.")
    if given and layout not in ("auto", given[0]):
        raise InputError(f"layout {layout} needs no {given[0]}. Leave one of them out.")
    if layout in own and not given:
        raise InputError(f"layout {layout} needs a {layout}. Give it with --{layout}, or --set data.{layout}=...")


def _one(root: Path, layout: str) -> Layout | None:
    """Return the layout of this very folder, or None where it is another than the one asked for."""
    for layouts, read in READERS:
        if layout == "auto" or layout in layouts:
            found = read(root, layout)
            if found is not None:
                return found
    return None


def _inside(root: Path, layout: str) -> Layout | None:
    """Look one folder deeper, or two: archives hold a folder of their own, some hold it twice."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith((".", "__"))]
    found = [one for path in folders if (one := _one(path, layout)) is not None]
    if len(found) > 1:
        names = ", ".join(one.root.name for one in found)
        raise InputError(f"{root} holds several data sets: {names}. Give one of them.")
    if found and found[0].published is None:  # a crop folder or split among other things is not to be guessed
        raise InputError(f"{root} is no data set, but {found[0].root} is. Give that.")
    if not found and len(folders) == 1:
        return _inside(folders[0], layout)
    return found[0] if found else None


def _market_like(root: Path, layout: str) -> Layout | None:
    """Read Market-1501's folders; which data set it is, is told by the user or by the folder's name."""
    splits = _splits(root, MARKET_FOLDERS)
    if not splits - {"query"}:
        return None
    names = f"{root.resolve().parent.name}/{root.resolve().name}".lower()
    guess = next((key for word, key in MARKERS.items() if word in names), None)
    data_set = guess if layout == "auto" else layout
    return Layout(
        name="Market-1501's layout" if data_set is None else TITLES[data_set],
        root=root,
        splits=splits,
        read=lambda split: read_named_images(root / MARKET_FOLDERS[split]),
        published=None if data_set is None else PUBLISHED[data_set],
    )


def _veri(root: Path, _: str) -> Layout | None:
    splits = _splits(root, VERI_FOLDERS)
    if not splits:
        return None
    return Layout(
        name=TITLES["veri776"],
        root=root,
        splits=splits,
        read=lambda split: read_named_images(root / VERI_FOLDERS[split]),
        published=PUBLISHED["veri776"],
    )


def _msmt17(root: Path, _: str) -> Layout | None:
    version = find_version(root)
    if version is None:
        return None
    return Layout(
        name=f"{TITLES['msmt17']} {version}",
        root=root,
        splits=EVERY_SPLIT,
        read=lambda split: read_msmt17(root, split, version),
        published=PUBLISHED["msmt17"],
    )


def _personx_backgrounds(root: Path, _: str) -> Layout | None:
    """Join the backgrounds of PersonX's first release: folders 1 to 6 in Market-1501's layout, one camera each."""
    parts = [path for path in sorted(root.iterdir()) if path.name.isdecimal() and _splits(path, MARKET_FOLDERS)]
    if not parts:
        return None
    return Layout(
        name=f"{TITLES['personx']} ({len(parts)} background{'s' if len(parts) > 1 else ''})",
        root=root,
        splits=frozenset.intersection(*(_splits(part, MARKET_FOLDERS) for part in parts)),
        read=lambda split: join([read_named_images(part / MARKET_FOLDERS[split]) for part in parts]),
        published=PERSONX_BACKGROUND.times(len(parts)),
    )


def _crops(root: Path, _: str) -> Layout | None:
    if not (root / INDEX_NAME).is_file():
        return None
    records = read_crop_folder(root).records
    images = [OwnImage(path=root / r.path, camid=r.camid, tracklet=r.tracklet) for r in records]
    return _unlabelled("crops", root, images)


def _cameras(root: Path) -> Layout:
    images = read_camera_folders(root)
    if not images:
        raise InputError(
            f"{root} holds no images, and nothing that looks like a data set. Give a crop folder (made by: reidge "
            "harvest), a data set as it was unpacked, or a folder of images for each camera."
        )
    return _unlabelled("crops by camera", root, images)


def _unlabelled(name: str, root: Path, images: list[OwnImage]) -> Layout:
    def read(split: Split) -> LabelledImages:
        if split != "train":
            raise InputError(
                f"{root} tells nobody's identity: it is no labelled data set ({', '.join(TITLES.values())}). Tell who "
                "is where with --pattern or --csv, see docs/data.md."
            )
        return select(images, split, root)

    return Layout(name=name, root=root, splits=frozenset({"train"}), read=read)


def _told(root: Path, where: Path, images: list[OwnImage]) -> Layout:
    told = frozenset(SPLITS[image.split] for image in images if image.split)
    return Layout(
        name="own images", root=root, splits=told or EVERY_SPLIT, read=lambda split: select(images, split, where)
    )


def _splits(root: Path, folders: Mapping[Split, str]) -> frozenset[Split]:
    return frozenset(split for split, folder in folders.items() if (root / folder).is_dir())


READERS: Sequence[tuple[tuple[str, ...], Callable[[Path, str], Layout | None]]] = (
    (("crops",), _crops),
    (("market1501", "dukemtmc", "personx", "msmt17"), _market_like),  # MSMT17 is passed around in these folders too
    (("veri776",), _veri),
    (("msmt17",), _msmt17),
    (("personx",), _personx_backgrounds),
)
"""Which layouts each reader knows. It returns None for a folder that is none of them."""
