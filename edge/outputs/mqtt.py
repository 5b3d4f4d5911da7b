"""Events over MQTT: at least once, in order, also over an outage of the broker or a restart of the box.

Every event goes to the spool first and is taken off when the broker has acknowledged it. Topics, all under
`<prefix>/<site>`: `events/<kind>` for events, `status` (retained, with a last will) for the site, and
`cameras/<camid>/status` (retained) for each camera.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from reidge.edge.outputs.broker import BrokerConfig, TlsConfig, tls_context
from reidge.edge.outputs.link import Link
from reidge.edge.outputs.spool import Spool
from reidge.edge.outputs.worker import Output, Trouble
from reidge.edge.settings import LEVEL_PATTERN, TOPIC_PATTERN

if TYPE_CHECKING:
    from collections import deque

    from reidge.edge.events import Event
    from reidge.edge.metrics import Metrics

TEND_SECONDS = 1.0

log = logging.getLogger(__name__)


def _site_name() -> str:
    return re.sub(r"[^\w.-]", "-", socket.gethostname()) or "site"


class MqttConfig(BrokerConfig, frozen=True, extra="forbid"):
    """A broker, and what waits while it is away."""

    site: str = Field(default_factory=_site_name, pattern=LEVEL_PATTERN)
    """Name of this box in topics; default: the machine's host name."""
    prefix: str = Field("reidge", pattern=TOPIC_PATTERN)
    """What all topics begin with."""
    spool: Path = Path("spool")
    """Folder for events that the broker has not acknowledged."""
    spool_mib: float = Field(64.0, gt=0, allow_inf_nan=False)
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
    """Brings events into the spool; a link of its own brings them from there to the broker."""

    def __init__(self, config: MqttConfig, *, max_waiting: int, metrics: Metrics | None) -> None:
        super().__init__("mqtt", max_waiting=max_waiting, metrics=metrics)
        self.config = config
        self.spool = Spool(config.spool, max_bytes=int(config.spool_mib * 2**20), max_kept=max_waiting)
        self._link: Link | None = None
        self._full = Trouble(f"spool {config.spool}")
        self._tended = 0.0
        self._lost_before = 0

    @property
    def trouble(self) -> str | None:
        """Why nothing reaches the broker, or the disk."""
        away = None if self._link is None else self._link.trouble.text
        return away or self._full.text or super().trouble

    @property
    def waiting(self) -> int:
        """Events that the broker has not acknowledged."""
        return super().waiting + self.spool.pending

    def open(self) -> None:
        """Read certificates and take the spool; whether the broker is there does not matter."""
        import paho.mqtt.client  # noqa: F401  # absent, it is one line now and not a thread's trouble later

        config = self.config
        tls = None if config.tls is None else tls_context(config.tls)
        if config.password is not None and config.tls is None and config.host not in ("localhost", "127.0.0.1", "::1"):
            log.warning("mqtt %s: the password travels unencrypted. Set outputs.mqtt.tls", config.address)
        self.spool.open()
        self._link = Link(config, tls=tls, spool=self.spool, changed=self._changed, count=self._count)

    def start(self) -> None:
        """Start both threads."""
        super().start()
        if self._link is not None:
            self._link.start()

    def put(self, event: Event, line: bytes) -> None:
        """Take an event in; what it says of a camera becomes the camera's status."""
        if self._link is not None and event.camid is not None and event.event in ("camera.up", "camera.down"):
            status = {"status": event.event[7:], "captured_at": event.captured_at, "reason": event.reason}
            self._link.tell(event.camid, json.dumps(status).encode())
        super().put(event, line)

    def deliver(self, lines: deque[bytes]) -> None:
        """Bring events into the spool."""
        self.spool.append(lines)
        lines.clear()
        if self._link is not None:
            self._link.rouse()
        self._count_lost()
        self.idle()

    def delivered(self, lines: int) -> None:
        """In the spool is not delivered yet."""

    def idle(self) -> None:
        """Look after the spool, once a second at most."""
        if time.monotonic() - self._tended < TEND_SECONDS:
            return
        self._tended = time.monotonic()
        self.spool.tend()
        self._count_lost()
        if self.spool.trouble is not None:
            self._full.met(self.spool.trouble, f"Events wait in memory, at most {self._max_waiting}")
        else:
            self._full.over()

    def flush(self, deadline: float) -> bool:
        """Wait until all is acknowledged, or on disk while the broker is away."""
        if not super().flush(deadline):
            return False
        with self._changed:
            self._changed.wait_for(self._can_do_no_more, max(0.0, deadline - time.monotonic()))
        return not self.spool.kept

    def leave(self) -> None:
        """Ask both threads to end; the link says goodbye to the broker."""
        super().leave()
        if self._link is not None:
            self._link.leave()

    def close(self, deadline: float) -> None:
        """Keep what the broker has not acknowledged for the next run."""
        super().close(deadline)
        if self._link is None:
            return
        self._link.close(deadline)
        self.spool.close()
        self._count_lost()
        self._lose(self.spool.kept)
        if left := self.spool.pending - self.spool.kept:
            log.warning("mqtt %s: %d events wait in the spool for the next run", self.config.address, left)

    def _can_do_no_more(self) -> bool:
        return not self.spool.pending or self._link is None or not self._link.connected

    def _count_lost(self) -> None:
        """Take over what was given up since the last time."""
        lost = self.spool.lost + (0 if self._link is None else self._link.unreadable)
        self._lose(lost - self._lost_before)
        self._lost_before = lost
