"""From the spool to the broker: one connection after the other, at least once, in order."""

from __future__ import annotations

import itertools
import json
import random
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reidge.edge.events import iso_time
from reidge.edge.outputs.broker import BrokerError, Connection
from reidge.edge.outputs.worker import Trouble

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from reidge.edge.outputs.mqtt import MqttConfig
    from reidge.edge.outputs.spool import Record, Spool

WINDOW = 64
"""Events under way to the broker at most."""
ACKNOWLEDGE_SECONDS = 10.0
"""A broker that takes an event and is silent for this long is connected to anew."""
BACKOFF = (0.5, 5.0)
"""Seconds before the second and at most before any later attempt: one attempt costs next to nothing."""
STEADY_SECONDS = 10.0
"""After a connection that lasted this long the next attempt is made soon again."""
TURN_SECONDS = 1.0
GOODBYE_SECONDS = 0.5


class Link(threading.Thread):
    """Sends what the spool holds, and keeps the retained statuses of site and cameras up to date.

    Args:
        config: Broker and topics.
        tls: From `tls_context`, or None.
        spool: What is to be sent; acknowledged lines are taken off it.
        changed: Notified whenever something was acknowledged or the connection came or went.
        count: Adds to a counter of this output.
    """

    def __init__(
        self,
        config: MqttConfig,
        *,
        tls: ssl.SSLContext | None,
        spool: Spool,
        changed: threading.Condition,
        count: Callable[[str, int], None],
    ) -> None:
        super().__init__(name="output-mqtt-link", daemon=True)
        self.connected = False
        self.trouble = Trouble(f"mqtt {config.address}", "not connected yet")
        self.unreadable = 0
        """Lines of the spool that were no events and could not be sent."""
        self._config, self._tls, self._spool = config, tls, spool
        self._changed, self._count = changed, count
        self._root = f"{config.prefix}/{config.site}"
        self._leaving = threading.Event()
        self._statuses: dict[str, bytes] = {}
        self._untold: set[str] = set()
        self._furthest = 0
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)

    def tell(self, camid: str, status: bytes) -> None:
        """Publish what is the case with a camera, now and after each new connection."""
        with self._changed:
            self._statuses[camid] = status
            self._untold.add(camid)

    def rouse(self) -> None:
        """There is something to do."""
        with suppress(BlockingIOError):  # it has been roused often enough
            self._wake.send(b".")

    def leave(self) -> None:
        """Say goodbye to the broker and end."""
        self._leaving.set()
        self.rouse()

    def close(self, deadline: float) -> None:
        """After `leave`: wait until `deadline` (`time.monotonic()`), and let go."""
        if self.is_alive():
            self.join(max(0.1, deadline - time.monotonic()))
        if not self.is_alive():
            self._wake.close()
            self._woken.close()

    def run(self) -> None:
        """Connect again and again until asked to leave."""
        pause, in_a_row = BACKOFF[0], 0
        while not self._leaving.is_set():
            began = time.monotonic()
            try:
                self._serve()
            except Exception as error:  # of many kinds, from the network, TLS and paho; none may be the last word
                brief = self.connected and time.monotonic() - began < STEADY_SECONDS
                in_a_row = in_a_row + 1 if brief else 0
                self.trouble.met(self._seen_twice(error) if in_a_row > 1 else error, "Events wait in the spool")
                self._count("output_failures", 1)
            self._is_connected(False)
            pause = BACKOFF[0] if time.monotonic() - began > STEADY_SECONDS else pause
            self._leaving.wait(pause * random.uniform(0.8, 1.2))
            pause = min(2 * pause, BACKOFF[1])

    def _seen_twice(self, error: Exception) -> BrokerError:
        """Name the likely cause of connections that are lost again and again as soon as they stand."""
        name = self._config.name
        return BrokerError(f"{error}; is another client called {name} too? Each box needs its own outputs.mqtt.site")

    def _is_connected(self, connected: bool) -> None:
        with self._changed:
            self.connected = connected
            self._changed.notify_all()

    def _serve(self) -> None:
        """Connect, and send until the connection is lost or this link is to end."""
        with Connection(
            self._config,
            client_id=self._config.name,
            tls=self._tls,
            will=(f"{self._root}/status", _status("offline", at=None, reason="the connection was lost")),
            wake=self._woken,
        ) as connection:
            self.trouble.over()
            self._is_connected(True)
            with self._changed:
                self._untold = set(self._statuses)
            connection.publish(f"{self._root}/status", _status("online", at=time.time()), retain=True)
            self._send_all(connection)
            goodbye = self._say_goodbye(connection)
            until = time.monotonic() + GOODBYE_SECONDS
            while time.monotonic() < until and goodbye not in connection.turn(0.1):
                pass

    def _say_goodbye(self, connection: Connection) -> int:
        """Tell that the site stops, and its cameras with it; returns the number of the last message.

        What is retained of a camera would say that it is up as long as the broker runs, were it left out of the site.
        """
        self._tell_cameras(connection)
        now, reason = time.time(), "stopped"
        down = json.dumps({"status": "down", "captured_at": iso_time(now), "reason": reason}).encode()
        with self._changed:
            up = [camid for camid, status in self._statuses.items() if json.loads(status)["status"] == "up"]
        for camid in up:
            connection.publish(self._topic_of(camid), down, retain=True)
        return connection.publish(f"{self._root}/status", _status("offline", at=now, reason=reason), retain=True)

    def _send_all(self, connection: Connection) -> None:
        """Bring events from the spool to the broker, in order, at most a window of them ahead of its answers."""
        cursor = self._spool.acknowledged
        under_way: dict[int, _Sent] = {}
        while not self._leaving.is_set():
            self._tell_cameras(connection)
            for record in self._spool.read(cursor, WINDOW - len(under_way)):
                cursor = record.number
                self._send(connection, record, under_way)
            for sent in itertools.islice(under_way.values(), 1):
                if time.monotonic() - sent.at > ACKNOWLEDGE_SECONDS:
                    raise BrokerError(f"the broker acknowledged nothing for {ACKNOWLEDGE_SECONDS:.0f} s")
            arrived = [under_way.pop(message, None) for message in connection.turn(TURN_SECONDS)]
            self._count("output_delivered", sum(sent is not None for sent in arrived))
            first = next(iter(under_way.values()), None)
            self._spool.acknowledge(cursor if first is None else first.number - 1)
            with self._changed:
                self._changed.notify_all()  # whoever waits in flush

    def _send(self, connection: Connection, record: Record, under_way: dict[int, _Sent]) -> None:
        kind = _kind(record.line)
        if kind is None:  # a power failure left something else in its place
            self.unreadable += 1
            return
        message = connection.publish(f"{self._root}/events/{kind}", record.line.rstrip())
        under_way[message] = _Sent(number=record.number, at=time.monotonic())
        if record.number <= self._furthest:
            self._count("output_repeated", 1)
        self._furthest = max(self._furthest, record.number)

    def _tell_cameras(self, connection: Connection) -> None:
        with self._changed:
            news = {camid: self._statuses[camid] for camid in self._untold}
            self._untold.clear()
        for camid, status in news.items():
            connection.publish(self._topic_of(camid), status, retain=True)

    def _topic_of(self, camid: str) -> str:
        return f"{self._root}/cameras/{camid}/status"


@dataclass(frozen=True, slots=True)
class _Sent:
    number: int
    at: float
    """Seconds of `time.monotonic()`."""


def _status(status: str, *, at: float | None, reason: str | None = None) -> bytes:
    """At `at` seconds since the epoch; None in a last will, since the broker does not say when it came to that."""
    when = None if at is None else iso_time(at)
    return json.dumps({"status": status, "at": when, "reason": reason}).encode()


def _kind(line: bytes) -> str | None:
    """What an event is about; None where the line is no event."""
    try:
        kind = json.loads(line)["event"]
    except (ValueError, KeyError, TypeError):
        return None
    return kind if isinstance(kind, str) and re.fullmatch(r"[\w.]+", kind) else None
