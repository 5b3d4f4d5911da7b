"""Secrets of a site file, from the environment and from files, so that they need not stand in it.

| in the site file | becomes |
|---|---|
| `${NAME}`, `${NAME:-default}` | the environment variable |
| `${file:/run/secrets/cam1}` | the one line in that file |
| `password_file: /run/secrets/mqtt` | `password` with the one line in that file; likewise for a token or secret |
| `$${NAME}` | `${NAME}`, as it stands |

In the user part of an address (`rtsp://viewer:${PASSWORD}@host`) values are percent-encoded as they are put in, so that
a password may have any characters. What is secret is remembered, and no message shows it any more.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from reidge.edge.errors import InputError
from reidge.edge.redact import is_secret_name, remember_address, remember_secret

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_BYTES = 65536
"""A larger file is no password."""
FILE_SUFFIX = "_file"
_PLACEHOLDER = re.compile(r"\$?\$\{(?:file:((?:[^${}]|\$\{\w+\})+)|(\w+)(?::-([^}]*))?)\}")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def fill_in(values: Any, path: Path) -> Any:
    """Put secrets and variables in the place of their names, in all texts of nested settings.

    Args:
        values: Settings as read from YAML.
        path: Their file, for messages; relative paths of secrets start at its folder.

    Raises:
        InputError: A variable is not set, or a file of a secret cannot be read.
    """
    if isinstance(values, dict):
        said = {key: value for key, value in values.items() if not _is_silent(key, value, beside=values)}
        return dict(_entry(key, value, beside=said, path=path) for key, value in said.items())
    if isinstance(values, list):
        return [fill_in(value, path) for value in values]
    return _expand(values, path) if isinstance(values, str) else values


def read_secret(path: Path, *, where: str) -> str:
    """Read the one line of a secret's file and remember it as a secret.

    Args:
        path: The file.
        where: What asks for it, for messages.

    Raises:
        InputError: It cannot be read, or is not one line of text.
    """
    text = _read_line(path, where=where)
    remember_secret(text)
    return text


def _read_line(path: Path, *, where: str) -> str:
    advice = "Write the secret into it, on one line, e.g. with: printf %s 'secret' > FILE"
    try:
        with path.open("rb") as file:
            content, mode = file.read(MAX_BYTES + 1), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise InputError(f"{where}: the secret's file {path} cannot be read: {error.strerror}. {advice}") from error
    try:
        text = content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: the secret's file {path} is not text in UTF-8. {advice}") from error
    if len(content) > MAX_BYTES or not text or re.search(r"[\r\n\0]", text):
        kind = "is empty" if not text else "holds more than one line"
        raise InputError(f"{where}: the secret's file {path} {kind}. {advice}")
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        log.warning("%s: every user of this machine may read the secret in %s. Run: chmod 600 %s", where, path, path)
    return text


def _is_silent(key: Any, value: Any, *, beside: dict[Any, Any]) -> bool:
    """Whether a setting is `password_file: null`, or `password: null` beside a file: the other of the two counts."""
    name = str(key).removesuffix(FILE_SUFFIX)
    if value is not None or not is_secret_name(name):
        return False
    return name != key or beside.get(f"{name}{FILE_SUFFIX}") is not None


def _entry(key: Any, value: Any, *, beside: dict[Any, Any], path: Path) -> tuple[Any, Any]:
    """One setting with what belongs into it; `password_file: PATH` becomes `password`."""
    name = str(key).removesuffix(FILE_SUFFIX)
    if not is_secret_name(name):
        return key, fill_in(value, path)
    if name == key or not isinstance(value, str):
        value = fill_in(value, path)
        if isinstance(value, str):
            remember_secret(value)
        return key, value
    if name in beside:
        raise InputError(f"{path}: both {name} and {key} are set. Keep one of them.")
    return name, read_secret(path.parent / _expand(value, path), where=f"{path}: {key}")


def _expand(text: str, path: Path) -> str:
    at = text.rfind("@")
    scheme = _ADDRESS.match(text)

    def replace(found: re.Match[str]) -> str:
        if found.group().startswith("$$"):
            return found.group()[1:]
        file, name, default = found.groups()
        if file is not None:
            value = _read_line(path.parent / _expand(file, path), where=str(path))
            if found.group() != text or not _ADDRESS.match(value):
                remember_secret(value)
            # Of a whole address only the password is one, and remembered below: port and path stand in other words.
        else:
            value = _variable(name, default, path)
        before = text[scheme.end() : found.start()] if scheme else ""
        if scheme is None or found.end() > at or re.search(r"[/?#]", _PLACEHOLDER.sub("", before)):
            return value
        if ":" in before:
            remember_secret(value)
        return quote(value, safe="")

    filled = _PLACEHOLDER.sub(replace, text)
    remember_address(filled)
    return filled


def _variable(name: str, default: str | None, path: Path) -> str:
    value = os.environ.get(name, default)
    if value is None:
        raise InputError(f"{path}: the environment variable {name} is not set. Set it or write ${{{name}:-default}}.")
    if is_secret_name(name):
        remember_secret(value)
    return value
