"""Events over MQTT: at least once, in order, also over an outage of the broker or a restart of the box.

Every event goes to the spool first and is taken off when the broker has acknowledged it. Topics, all under
`<prefix>/<site>`: `events/<kind>` for events, `status` (retained, with a last will) for the site, and
`cameras/<camid>/status` (retained) for each camera.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from reidge.edge.events import iso_time
from reidge.edge.outputs.broker import BrokerConfig, BrokerError, Connection, TlsConfig, tls_context
from reidge.edge.outputs.spool import Spool
from reidge.edge.outputs.worker import Output, Trouble

if TYPE_CHECKING:
    import ssl
    from collections import deque

    from reidge.edge.events import Event
    from reidge.edge.metrics import Metrics
    from reidge.edge.outputs.spool import Record

WINDOW = 64
"""Events under way to the broker at most."""
ACKNOWLEDGE_SECONDS = 10.0
"""A broker that takes an event and is silent for this long is connected to anew."""
BACKOFF = (0.5, 5.0)
"""Seconds before the second and at most before any later attempt: one attempt costs next to nothing."""
STEADY_SECONDS = 10.0
"""After a connection that lasted this long the next attempt is made soon again."""
TEND_SECONDS = 1.0
GOODBYE_SECONDS = 0.5

log = logging.getLogger(__name__)


def _site_name() -> str:
    return re.sub(r"[^\w.-]", "-", socket.gethostname()) or "site"


class MqttConfig(BrokerConfig, frozen=True, extra="forbid"):
    """A broker, and what waits while it is away."""

    site: str = Field(default_factory=_site_name, pattern=r"^[^/#+\x00]+$")
    """Name of this box in topics; default: the machine's host name."""
    prefix: str = Field("reidge", pattern=r"^[^/#+\x00$][^/#+\x00]*(/[^/#+\x00]+)*$")
    """What all topics begin with."""
    spool: Path = Path("spool")
    """Folder for events that the broker has not acknowledged."""
    spool_mib: float = Field(64.0, gt=0)
    """Its size at most; beyond it the oldest events are lost. An event takes about 400 bytes."""

    @property
    def name(self) -> str:
        """Who connects."""
        return self.client_id or f"reidge-{self.site}"

    def inside(self, folder: Path) -> MqttConfig:
        """Make relative paths start at `folder`."""
        tls = self.tls
        if tls is not None:
            paths = {name: path and folder / path for name, path in tls}
            tls = TlsConfig(**paths)
        return self.model_copy(update={"spool": folder / self.spool, "tls": tls})


class MqttOutput(Output):
    """One thread brings events into the spool, another one from there to the broker."""

    def __init__(self, config: MqttConfig, *, max_waiting: int, metrics: Metrics | None) -> None:
        super().__init__("mqtt", max_waiting=max_waiting, metrics=metrics)
        self.config = config
        self.spool = Spool(config.spool, max_bytes=int(config.spool_mib * 2**20), max_kept=max_waiting)
        self.connected = False
        self._root = f"{config.prefix}/{config.site}"
        self._tls: ssl.SSLContext | None = None
        self._link = threading.Thread(target=self._keep_linked, name="output-mqtt-link", daemon=True)
        self._leaving = threading.Event()
        self._away = Trouble(f"mqtt {config.address}", "not connected yet")
        self._full = Trouble(f"spool {config.spool}")
        self._statuses: dict[str, bytes] = {}
        self._untold: set[str] = set()
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._tended = 0.0
        self._lost_by_spool = 0
        self._furthest = 0

    @property
    def trouble(self) -> str | None:
        """Why nothing reaches the broker, or the disk."""
        return self._away.text or self._full.text or super().trouble

    @property
    def waiting(self) -> int:
        """Events that the broker has not acknowledged."""
        return super().waiting + self.spool.pending

    def open(self) -> None:
        """Read certificates and take the spool; whether the broker is there does not matter."""
        import paho.mqtt.client  # noqa: F401  # absent, it is one line now and not a thread's trouble later

        config = self.config
        self._tls = None if config.tls is None else tls_context(config.tls)
        if config.password is not None and config.tls is None and config.host not in ("localhost", "127.0.0.1", "::1"):
            log.warning("mqtt %s: the password travels unencrypted. Set outputs.mqtt.tls", config.address)
        self.spool.open()
        self._wake = socket.socketpair()
        for end in self._wake:
            end.setblocking(False)

    def start(self) -> None:
        """Start both threads."""
        super().start()
        self._link.start()

    def put(self, event: Event, line: bytes) -> None:
        """Take an event in; what it says of a camera becomes the camera's status."""
        if event.camid is not None and event.event in ("camera.up", "camera.down"):
            status = {"status": event.event[7:], "captured_at": event.captured_at, "reason": event.reason}
            with self._changed:
                self._statuses[event.camid] = json.dumps(status).encode()
                self._untold.add(event.camid)
        super().put(event, line)

    def deliver(self, lines: deque[bytes]) -> None:
        """Bring events into the spool."""
        self.spool.append(lines)
        lines.clear()
        self._rouse()
        self._count_lost()
        self._tend()

    def delivered(self, lines: int) -> None:
        """In the spool is not delivered yet."""

    def idle(self) -> None:
        """Look after the spool."""
        self._tend()

    def flush(self, deadline: float) -> bool:
        """Wait until all is acknowledged, or on disk while the broker is away."""
        if not super().flush(deadline):
            return False
        with self._changed:
            self._changed.wait_for(
                lambda: not (self.spool.pending and self.connected), max(0.0, deadline - time.monotonic())
            )
        return not self.spool.pending or not self.spool.kept

    def leave(self) -> None:
        """Ask both threads to end; the one to the broker says goodbye."""
        super().leave()
        self._leaving.set()
        self._rouse()

    def close(self, deadline: float) -> None:
        """Keep what the broker has not acknowledged for the next run."""
        super().close(deadline)
        if self._link.is_alive():
            self._link.join(max(0.1, deadline - time.monotonic()))
        self.spool.close()
        if self.spool.kept:
            self._lose(self.spool.kept)
        if self.spool.pending:
            log.warning(
                "mqtt %s: %d events wait in the spool for the next run", self.config.address, self.spool.pending
            )
        if self._wake is not None and not self._link.is_alive():
            for end in self._wake:
                end.close()

    def _tend(self) -> None:
        if time.monotonic() - self._tended < TEND_SECONDS:
            return
        self._tended = time.monotonic()
        self.spool.tend()
        self._count_lost()
        if self.spool.trouble is not None:
            self._full.met(self.spool.trouble, f"Events wait in memory, at most {self._max_waiting}")
        else:
            self._full.over()

    def _count_lost(self) -> None:
        """Take over what the spool gave up since the last time."""
        lost = self.spool.lost
        self._lose(lost - self._lost_by_spool)
        self._lost_by_spool = lost

    def _rouse(self) -> None:
        """End the waiting of the other thread."""
        if self._wake is not None:
            with suppress(BlockingIOError):  # it has been roused often enough
                self._wake[0].send(b".")

    def _keep_linked(self) -> None:
        pause = BACKOFF[0]
        while not self._leaving.is_set():
            began = time.monotonic()
            try:
                self._link_once()
            except Exception as error:  # of many kinds, from the network, TLS and paho; none may be the last word
                self._away.met(error, "Events wait in the spool")
                self._count("output_failures", 1)
            with self._changed:
                self.connected = False
                self._changed.notify_all()
            pause = BACKOFF[0] if time.monotonic() - began > STEADY_SECONDS else pause
            self._leaving.wait(pause * random.uniform(0.8, 1.2))
            pause = min(2 * pause, BACKOFF[1])

    def _link_once(self) -> None:
        """Connect, and send until the connection is lost or this output is closed."""
        assert self._wake is not None
        with Connection(
            self.config,
            client_id=self.config.name,
            tls=self._tls,
            will=(f"{self._root}/status", _status("offline", reason="the connection was lost")),
            wake=self._wake[1],
        ) as connection:
            self._away.over()
            self.connected = True
            with self._changed:
                self._untold = set(self._statuses)
            connection.publish(f"{self._root}/status", _status("online"), retain=True)
            self._send_all(connection)
            goodbye = connection.publish(f"{self._root}/status", _status("offline", reason="stopped"), retain=True)
            until = time.monotonic() + GOODBYE_SECONDS
            while time.monotonic() < until and goodbye not in connection.turn(0.1):
                pass

    def _send_all(self, connection: Connection) -> None:
        """Bring events from the spool to the broker, in order, at most a window of them ahead of its answers."""
        cursor = self.spool.acknowledged
        under_way: dict[int, _Sent] = {}
        while not self._leaving.is_set():
            self._tell_cameras(connection)
            for record in self.spool.read(cursor, WINDOW - len(under_way)):
                cursor = record.number
                self._send(connection, record, under_way)
            for sent in itertools.islice(under_way.values(), 1):
                if time.monotonic() - sent.at > ACKNOWLEDGE_SECONDS:
                    raise BrokerError(f"the broker acknowledged nothing for {ACKNOWLEDGE_SECONDS:.0f} s")
            arrived = [under_way.pop(message, None) for message in connection.turn(TEND_SECONDS)]
            self._count("output_delivered", sum(sent is not None for sent in arrived))
            first = next(iter(under_way.values()), None)
            self.spool.acknowledge(cursor if first is None else first.number - 1)
            with self._changed:
                self._changed.notify_all()  # whoever waits in flush

    def _send(self, connection: Connection, record: Record, under_way: dict[int, _Sent]) -> None:
        kind = _kind(record.line)
        if kind is None:  # a power failure left something else in its place
            self._lose(1)
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
            connection.publish(f"{self._root}/cameras/{camid}/status", status, retain=True)


@dataclass(frozen=True, slots=True)
class _Sent:
    number: int
    at: float
    """Seconds of `time.monotonic()`."""


def _status(status: str, *, reason: str | None = None) -> bytes:
    return json.dumps({"status": status, "at": iso_time(time.time()), "reason": reason}).encode()


def _kind(line: bytes) -> str | None:
    """What an event is about; None where the line is no event."""
    try:
        kind = json.loads(line)["event"]
    except (ValueError, KeyError, TypeError):
        return None
    return kind if isinstance(kind, str) and re.fullmatch(r"[\w.]+", kind) else None
