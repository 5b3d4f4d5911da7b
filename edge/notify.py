"""Tells systemd how the service is: ready, alive, reloading, stopping (the protocol of `sd_notify`)."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

BEATS_PER_LIMIT = 3
"""Signs of life within the time after which systemd would give the service up."""


class ServiceManager:
    """Does nothing where no service manager listens.

    Args:
        environment: Where the manager says how to reach it: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # a name without a file
            self._address = "\0" + self._address[1:]
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        limit = environment.get("WATCHDOG_USEC", "")
        self._beat_every = int(limit) / 1e6 / BEATS_PER_LIMIT if ours and limit.isdecimal() else None
        self._last_beat = 0.0
        self._status = ""

    def ready(self) -> None:
        """The service runs, or goes on after a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """New settings are being read."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service is about to end."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The loop goes round; call it as often as you like."""
        now = time.monotonic()
        if self._beat_every is not None and now - self._last_beat >= self._beat_every:
            self._last_beat = now
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # A manager that is gone or busy must not cost the loop anything.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), self._address)
