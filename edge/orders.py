"""What a running site is asked to do from outside: to stop, or to read its settings again."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Orders:
    """Set from any thread, obeyed by the loop between two moments."""

    stop: threading.Event = field(default_factory=threading.Event)
    reload: threading.Event = field(default_factory=threading.Event)


@contextmanager
def orders_by_signal() -> Iterator[Orders]:
    """Take SIGINT and SIGTERM for the wish to stop, SIGHUP for the wish to reload; main thread only.

    Python runs a signal's handler between two lines of the main thread, so never while that hangs in native code.
    The number of the signal however is written to a socket at once, and a thread reads it from there. A second SIGINT
    or SIGTERM ends the process at once.
    """
    orders = Orders()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    wakeup_before = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    listener = threading.Thread(target=_listen, args=(theirs, orders), name="signals", daemon=True)
    listener.start()
    try:
        yield orders
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()  # the thread reads the end of the stream
        listener.join(1.0)
        theirs.close()


def _listen(channel: socket.socket, orders: Orders) -> None:
    while received := channel.recv(16):
        for number in received:
            if number == signal.SIGHUP:
                orders.reload.set()
            elif orders.stop.is_set():
                os._exit(128 + number)
            elif number in (signal.SIGINT, signal.SIGTERM):
                orders.stop.set()
