"""The parts of a stream's address, with passwords as people write them."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from reidge.edge.errors import InputError

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "tcp": 0}
"""Where a source listens that is reached over TCP."""
LISTENING = ("udp", "tcp", "srt", "rtmp")
"""Schemes whose address may do without a host: the stream is sent to this machine."""
MAX_PORT = 65535
_PLACE = re.compile(r"(?P<host>\[[^\]]*\]|[^:/?#@]*)(?::(?P<port>\d{1,5}))?(?P<path>[/?#].*)?", re.DOTALL)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[\w-]+(\.[\w-]+)*\.?)(:\d{1,5})?([/?#]|$)")


def check_address(source: str) -> None:
    """Refuse an address that leads nowhere, however long it is tried; anything else is let pass.

    Raises:
        InputError: Its scheme is unknown, or it lacks a host or has a port that cannot be.
    """
    scheme, separator, _ = source.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return
    known = sorted({*PORTS, *LISTENING})
    if scheme.lower() not in known:
        near = difflib.get_close_matches(scheme.lower(), known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}."
        raise InputError(f"unknown scheme {scheme}. {hint}")
    address = Address.parse(source)
    if address is None and scheme.lower() not in LISTENING:
        raise InputError("its address names no host, or a port that is no number. Write it like rtsp://host:554/path.")
    if address is not None and address.port is not None and not 0 < address.port <= MAX_PORT:
        raise InputError(f"its address has port {address.port}. Give one of 1 to {MAX_PORT}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a stream is, and who asks for it."""

    scheme: str
    host: str
    """IPv6 without its brackets."""
    port: int | None
    path: str = field(repr=False)
    """With its query, which may hold secrets too."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, source: str) -> Address | None:
        """Take an address apart; None where it cannot be.

        A password may stand as it is (`viewer:p@ss/w:rd@host`) or percent-encoded, as in any address.
        """
        scheme, separator, rest = source.partition("://")
        if not separator:
            return None
        user, place = _split_user(rest)
        found = _PLACE.fullmatch(place)
        if found is None or not found["host"]:
            return None
        name, colon, password = (user or "").partition(":")
        return cls(
            scheme=scheme.lower(),
            host=found["host"].strip("[]"),
            port=int(found["port"]) if found["port"] else None,
            path=found["path"] or "",
            user=unquote(name) if user is not None else None,
            password=unquote(password) if colon else None,
        )

    @property
    def listens_at(self) -> tuple[str, int] | None:
        """Host and TCP port; None for what is not reached over TCP."""
        port = self.port or PORTS.get(self.scheme, 0)
        return (self.host, port) if self.scheme in PORTS and port else None

    @property
    def bare(self) -> str:
        """Without user and password."""
        return f"{self.scheme}://{self._place}{self.path}"

    @property
    def quoted(self) -> str:
        """Whole, with user and password percent-encoded, as libraries want it."""
        if self.user is None:
            return self.bare
        secret = "" if self.password is None else f":{quote(self.password, safe='')}"
        return f"{self.scheme}://{quote(self.user, safe='')}{secret}@{self._place}{self.path}"

    @property
    def _place(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def _split_user(rest: str) -> tuple[str | None, str]:
    """Part user and password from the place.

    They end at the last `@` before the path. A `/` in a password hides that one: what is left of the place is then no
    host with a port of digits, and the last `@` of all is the one.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, separator, _ = authority.rpartition("@")
    place = rest[len(user) + len(separator) :]
    if _HOST.match(place):
        return (user, place) if separator else (None, place)
    user, separator, place = rest.rpartition("@")
    return (user, place) if separator else (None, rest)
