"""A real mosquitto of the test's own, and a reader that keeps what it was told."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from getpass import getuser
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

BINARY = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin")
PASSWORDS = shutil.which("mosquitto_passwd")


def has_mosquitto() -> bool:
    """Whether a broker can be started."""
    return BINARY is not None and PASSWORDS is not None


def need_mosquitto() -> None:
    """Skip a test where it is absent."""
    if not has_mosquitto():
        pytest.skip("needs the Debian package mosquitto")


class Broker:
    """mosquitto on a port of its own, with one user, for as long as the object lives; use it in a `with`.

    Sessions survive `stop`, so that a reader gets what comes after the next `start` before it is connected again.
    """

    def __init__(self, folder: Path, *, user: str = "reidge", password: str = "secret", options: str = "") -> None:
        self.user, self.password, self.options = user, password, options
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Broker:
        self.folder.mkdir(parents=True, exist_ok=True)
        assert PASSWORDS is not None
        users = self.folder / "users"
        users.touch(mode=0o600)
        subprocess.run([PASSWORDS, "-b", users, self.user, self.password], check=True, capture_output=True)
        (self.folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {users}\nuser {getuser()}\n"
            # By default it drops what comes beyond 1000 messages that a reader has not taken.
            f"persistence true\npersistence_location {self.folder}/\nmax_queued_messages 0\n{self.options}"
        )
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Run until `stop`; it takes connections when this returns."""
        assert BINARY is not None
        self._process = subprocess.Popen(
            [BINARY, "-c", self.folder / "mosquitto.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise AssertionError(f"mosquitto does not listen on port {self.port}")

    def signal(self, number: int) -> None:
        """Send it a signal: SIGSTOP makes it stand still."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it; whoever connects then is refused."""
        if self._process is not None:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)
            self._process.wait()
            self._process = None


class Reader:
    """Keeps every message under a topic in the order it came, and comes back when the broker does."""

    def __init__(self, broker: Broker, topic: str = "#") -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages: list[tuple[str, dict[str, Any]]] = []
        """Topic and JSON payload."""
        self._topic = topic
        self._ready = threading.Event()
        # A session of its own name keeps what comes while the connection is down.
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="reader", clean_session=False)
        self._client.username_pw_set(broker.user, broker.password)
        self._client.reconnect_delay_set(min_delay=1, max_delay=1)
        self._client.on_connect = lambda client, *_: client.subscribe(self._topic, qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _, __, message: self._keep(message.topic, message.payload)
        self._client.connect("127.0.0.1", broker.port)

    def __enter__(self) -> Reader:
        self._client.loop_start()
        assert self._ready.wait(10), "the broker does not answer"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def events(self) -> list[dict[str, Any]]:
        """Events, without the statuses of site and cameras."""
        return [payload for _, payload in tuple(self.messages) if "event_id" in payload]

    def _keep(self, topic: str, payload: bytes | bytearray) -> None:
        try:
            said = json.loads(payload)
        except ValueError:
            said = payload.decode(errors="replace")
        self.messages.append((topic, said if isinstance(said, dict) else {"text": said}))
