"""Folders that appear whole or not at all, and files for the eyes of one user."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_own_folder(path: Path) -> None:
    """Make a folder that other users of the machine cannot enter; one that is there keeps its mode."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def open_own(path: Path, mode: str) -> IO[str]:
    """Open a text file that other users of the machine cannot read; one that is there keeps its mode."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if mode == "a" else os.O_TRUNC)
    return os.fdopen(os.open(path, flags, 0o600), mode, newline="")


def require_free(target: Path) -> None:
    """Refuse an output that holds something or cannot be made, before any work is spent on it.

    Raises:
        InputError: `target` is neither absent nor an empty folder, or has no name of its own (`.`, `..`, `/`).
    """
    if target.name in ("", ".."):
        raise InputError(f"the output {target} has no name of its own. Name a folder that does not exist yet.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} already exists and is not an empty folder. Choose another output or remove it.")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a sibling folder to write to, which takes the name `target` when all went well and vanishes otherwise.

    Raises:
        OSError: The folder cannot be written, named with `target`: of a full disk the kernel does not say which file it
            was that did not fit, and the sibling's name means nothing to whoever asked.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        if error.filename == str(partial) or (error.errno in NO_ROOM and error.filename is None):
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
