"""`reidge gallery`: who is known, and who is to be forgotten; while a site runs on the gallery or not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from reidge.cli.output import add_json_argument

if TYPE_CHECKING:
    from collections.abc import Callable

ACTIONS = {
    "list": "who is in the gallery, those seen last first",
    "show": "everything about one identity",
    "stats": "how much the gallery holds",
    "search": "pictures of a person -> who it may be",
    "enrol": "pictures of a person -> somebody known, by name if you like",
    "rename": "give an identity a name, or take it away",
    "merge": "make two identities one",
    "unmerge": "take a merge back",
    "split": "make some sightings of an identity a new one",
    "duplicates": "identities that may be one person twice",
    "erase": "forget somebody: embeddings, sightings, pictures, and for good",
    "retain": "forget now who was not seen for storage.retention_days",
    "export": "the whole gallery -> one archive",
    "import": "an archive -> what of it is missing here, without anybody who was erased",
    "encrypt": "encrypt embeddings and pictures with storage.secret, or with another one than before",
    "decrypt": "take the encryption off",
    "reembed": "make the gallery one of the bundle's encoder, from the pictures that it keeps",
    "audit": "who looked for whom, named, erased or exported",
}

MOST = 2**63 - 1
"""Largest number that SQLite knows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions, each with its arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", help="what to do")
    for name, summary in ACTIONS.items():
        sub = actions.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.add_argument("site", type=Path, metavar="SITE.yaml", help="the site file; its gallery is meant")
        if name in DECLARE:
            DECLARE[name](sub)
        sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a setting")
        add_json_argument(sub)


def run(args: argparse.Namespace) -> int:
    """Do what was asked and return the exit status."""
    from reidge.cli import gallery_actions

    _check_numbers(args)
    action: Callable[[argparse.Namespace], gallery_actions.Said] = getattr(gallery_actions, f"do_{args.action}")
    said = action(args)
    print(json.dumps(said.figures) if args.json else said.text, flush=True)  # a reader that left is noticed here
    return 0


def _check_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that no file can hold."""
    from reidge.edge.errors import InputError

    for value in vars(args).values():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) > MOST:
                raise InputError(f"{number} is too large: numbers go up to {MOST}. See: reidge gallery list")


def _limit(sub: argparse.ArgumentParser, default: int, what: str) -> None:
    sub.add_argument("--limit", type=_positive, default=default, metavar="N", help=f"{what} at most")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _identity(sub: argparse.ArgumentParser, name: str = "id", what: str = "the identity's number") -> None:
    sub.add_argument(name, type=int, metavar=name.upper(), help=what)


def _pictures(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="image files of one person")
    sub.add_argument(
        "--whole",
        action="store_true",
        default=False,
        help="they show more than the person, who is the only one: find it with the site's detector",
    )


def _declare_list(sub: argparse.ArgumentParser) -> None:
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--named", action="store_true", default=False, help="only who has a name")
    which.add_argument(
        "--undecided", action="store_true", default=False, help="sightings of which nobody knows who they are"
    )
    _limit(sub, 50, "lines")


def _declare_show(sub: argparse.ArgumentParser) -> None:
    _identity(sub)
    _limit(sub, 20, "sightings")


def _declare_search(sub: argparse.ArgumentParser) -> None:
    _pictures(sub)
    _limit(sub, 5, "people")


def _declare_enrol(sub: argparse.ArgumentParser) -> None:
    _pictures(sub)
    sub.add_argument("--name", help="the person's name, if it is to be kept")
    sub.add_argument("--identity", type=int, metavar="ID", help="somebody known; without it, it is somebody new")
    sub.add_argument(
        "--force",
        action="store_true",
        default=False,
        help="also by pictures that show nobody well, or look like somebody else",
    )


def _declare_rename(sub: argparse.ArgumentParser) -> None:
    _identity(sub)
    sub.add_argument("name", nargs="?", help="the new name; without one, the name is taken away")


def _declare_merge(sub: argparse.ArgumentParser) -> None:
    _identity(sub, "kept", "the identity that stays")
    _identity(sub, "absorbed", "the identity that becomes part of it")


def _declare_unmerge(sub: argparse.ArgumentParser) -> None:
    _identity(sub, "absorbed", "the identity that was merged into another one")


def _declare_split(sub: argparse.ArgumentParser) -> None:
    _identity(sub)
    sub.add_argument(
        "--sightings", type=int, nargs="+", required=True, metavar="N", help="their numbers, as `show` tells them"
    )


def _declare_duplicates(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--min-similarity", type=float, metavar="X", help="least similarity; else the least to be taken for one person"
    )
    _limit(sub, 20, "pairs")


def _declare_erase(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("ids", type=int, nargs="*", metavar="ID", help="numbers of identities")
    sub.add_argument(
        "--sightings", type=int, nargs="+", default=[], metavar="N", help="numbers of sightings of nobody yet"
    )


def _declare_retain(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--dry-run", action="store_true", default=False, help="only say how many would be forgotten")
    sub.add_argument("--yes", action="store_true", default=False, help="also where that is more than half of everybody")


def _declare_export(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--output", type=Path, required=True, metavar="FILE.zip", help="the archive to write")
    sub.add_argument(
        "--plain",
        action="store_true",
        default=False,
        help="do not encrypt; else it is encrypted with storage.secret, where that is set",
    )


def _declare_import(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("archive", type=Path, metavar="FILE.zip", help="what `export` wrote")
    sub.add_argument(
        "--secret-file", type=Path, metavar="FILE", help="secret of the archive, where it is not storage.secret"
    )


def _declare_encrypt(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--old-secret-file", type=Path, metavar="FILE", help="secret that it is encrypted with now; else it is plain"
    )


def _declare_reembed(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--drop", action="store_true", default=False, help="drop exemplars of which no picture is kept")


DECLARE: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "list": _declare_list,
    "show": _declare_show,
    "search": _declare_search,
    "enrol": _declare_enrol,
    "rename": _declare_rename,
    "merge": _declare_merge,
    "unmerge": _declare_unmerge,
    "split": _declare_split,
    "duplicates": _declare_duplicates,
    "erase": _declare_erase,
    "retain": _declare_retain,
    "export": _declare_export,
    "import": _declare_import,
    "encrypt": _declare_encrypt,
    "reembed": _declare_reembed,
    "audit": lambda sub: _limit(sub, 50, "lines"),
}
