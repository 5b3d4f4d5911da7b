"""Addresses without their secrets, fit for logs, events and error messages."""

from __future__ import annotations

import itertools
import re

UNPARSEABLE = "<unparseable source>"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[\w.-]+)(:\d+)?")


def redact(source: str) -> str:
    """Drop user, password and query from an address; a plain path stays as it is.

    The user part ends at the last `@`, because passwords contain `@`, `:` and `/`. Whatever could still hide a
    secret (a `?` before that `@`, `password=` in the path) is left out rather than guessed at.
    """
    if "://" not in source:
        return UNPARSEABLE if "@" in source and ":" in source.split("@")[0] else source
    scheme, rest = source.split("://", 1)
    user, _, place = rest.rpartition("@")
    place = re.split(r"[?#&;]", place, maxsplit=1)[0]
    host, *path = place.split("/")
    known = re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) and _HOST.fullmatch(host)
    if not known or re.search(r"[?#]", user):
        return UNPARSEABLE
    harmless = itertools.takewhile(lambda part: "=" not in part, path)
    return f"{scheme}://{'/'.join([host, *harmless])}"


def redact_text(text: str) -> str:
    """Redact every address inside a longer text, e.g. an exception of a library."""
    return _ADDRESS.sub(lambda match: redact(match.group()), text)
