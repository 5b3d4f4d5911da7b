"""Folders that appear whole or not at all."""

from __future__ import annotations

import errno
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
