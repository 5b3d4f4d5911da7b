"""One connection to an MQTT broker, from CONNECT to the first thing that goes wrong.

paho-mqtt speaks the protocol. Its own reconnecting and its queue stay unused: both are in memory, and a message must
be taken from the spool again, in order, after a connection was lost.
"""

from __future__ import annotations

import re
import select
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, SecretStr, model_validator

from reidge.edge.errors import InputError

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from paho.mqtt.client import Client

CONNECT_SECONDS = 5.0
"""For the network; as long again for the broker's answer."""


class TlsConfig(BaseModel, frozen=True, extra="forbid"):
    """How the broker is recognised, and this box by the broker. Certificates and host names are always checked."""

    ca: Path | None = None
    """PEM file of the authority that signed the broker's certificate; None takes those of the system."""
    certificate: Path | None = None
    """PEM file of a certificate of this box."""
    key: Path | None = None
    """PEM file of its private key; None where it stands in the same file."""


class BrokerConfig(BaseModel, frozen=True, extra="forbid"):
    """Where the broker is."""

    host: str = Field(min_length=1)
    """Name or IP address alone: user, password and port are settings of their own."""
    port: int | None = Field(None, ge=1, le=65535)
    """None takes 1883, or 8883 with TLS."""
    user: str | None = None
    """Whom the broker knows; None says no name."""
    password: SecretStr | None = None
    """Of the user; `password_file` takes it from a file."""
    client_id: str | None = Field(None, min_length=1)
    """Unique at the broker; None takes `reidge-<site>`."""
    keepalive: int = Field(30, ge=5, le=3600)
    """Seconds of silence after which broker and box ask whether the other is there."""
    tls: TlsConfig | None = None
    """`{}` encrypts with the system's authorities; null does not encrypt."""

    @model_validator(mode="after")
    def _complete(self) -> BrokerConfig:
        if self.password is not None and self.user is None:
            raise ValueError("a password without a user. Set user too")
        if re.search(r"[@/\s]", self.host):  # asked here, since a message about the one field would quote it
            raise ValueError("host must be a name or an IP address alone. Set user, password and port beside it")
        return self

    @property
    def address(self) -> str:
        """`host:port`, which holds no secret."""
        return f"{self.host}:{self.port or (8883 if self.tls else 1883)}"


class BrokerError(ConnectionError):
    """The broker went silent or closed the connection."""


class BrokerRefusal(BrokerError):
    """The broker does not want us: a wrong password, as a rule."""


def tls_context(config: TlsConfig) -> ssl.SSLContext:
    """Read the certificates.

    Raises:
        InputError: A file is missing or holds something else.
    """
    try:
        context = ssl.create_default_context(cafile=None if config.ca is None else str(config.ca))
        if config.certificate is not None:
            context.load_cert_chain(config.certificate, config.key)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(str(path) for path in (config.ca, config.certificate, config.key) if path is not None)
        raise InputError(f"mqtt.tls: {files}: {error.strerror or error}. Give certificates as PEM files.") from error
    return context


class Connection:
    """Use it in a `with`, from one thread.

    Args:
        config: Where the broker is.
        client_id: Who connects.
        tls: From `tls_context`, or None.
        will: Topic and payload, retained, that the broker publishes should this connection be lost.
        wake: A socket on which a byte ends the waiting of `turn`.

    Raises:
        OSError: On entering: the broker is not reached, refuses or does not answer. Its text holds no secret.
    """

    def __init__(
        self,
        config: BrokerConfig,
        *,
        client_id: str,
        tls: ssl.SSLContext | None,
        will: tuple[str, bytes] | None = None,
        wake: socket.socket | None = None,
    ) -> None:
        self._config = config
        self._client = _client(config, client_id, tls, will)
        self._wake = wake
        self._connected = False
        self._failure: BrokerError | None = None
        self._acknowledged: list[int] = []

    def __enter__(self) -> Connection:
        client = self._client
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        host, _, port = self._config.address.rpartition(":")
        try:
            client.connect(host, int(port), keepalive=self._config.keepalive)
            deadline = time.monotonic() + CONNECT_SECONDS
            while not self._connected:
                if time.monotonic() > deadline:
                    raise BrokerError("the broker takes connections and does not answer")
                self.turn(0.2)
        except BaseException:
            self._drop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._client.disconnect()  # politely: the broker keeps the last will to itself
        self._drop()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Send a message with QoS 1; returns the number by which `turn` tells that it arrived."""
        return self._client.publish(topic, payload, qos=1, retain=retain).mid

    def turn(self, seconds: float) -> list[int]:
        """Read and write what is due, waiting for `seconds` at most; returns the messages that arrived.

        Raises:
            BrokerError: The connection is over.
        """
        connection = self._client.socket()
        if connection is not None:
            waits = isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
            poll = select.poll()
            poll.register(connection.fileno(), select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
            if self._wake is not None:
                poll.register(self._wake.fileno(), select.POLLIN)
            ready = dict(poll.poll(0 if waits else 1000 * seconds))
            if self._wake is not None and self._wake.fileno() in ready:
                self._wake.recv(4096)
            if waits or ready.get(connection.fileno(), 0) & ~select.POLLOUT:
                self._client.loop_read()
            self._client.loop_write()
            self._client.loop_misc()
        if self._failure is not None:
            raise self._failure
        if self._client.socket() is None:
            raise BrokerError("the connection was lost")
        arrived, self._acknowledged = self._acknowledged, []
        return arrived

    def _drop(self) -> None:
        client = self._client
        client.on_connect = client.on_disconnect = client.on_publish = None  # no circle keeps its sockets open
        connection = client.socket()
        if connection is not None:
            connection.close()

    def _on_connect(self, _: Client, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        self._connected = not reason.is_failure
        if reason.is_failure:
            self._failure = BrokerRefusal(f"the broker refuses: {reason}")

    def _on_disconnect(self, _: Client, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        told = "" if str(reason) == "Unspecified error" else f": {reason}"
        self._failure = self._failure or BrokerError(f"the connection was lost{told}")

    def _on_publish(self, _: Client, __: Any, message: int, ___: Any, ____: Any) -> None:
        self._acknowledged.append(message)


def _client(config: BrokerConfig, client_id: str, tls: ssl.SSLContext | None, will: tuple[str, bytes] | None) -> Client:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, reconnect_on_failure=False)
    client.connect_timeout = CONNECT_SECONDS
    client.max_inflight_messages_set(0)  # without bound: the spool bounds it
    if config.user is not None:
        client.username_pw_set(config.user, None if config.password is None else config.password.get_secret_value())
    if tls is not None:
        client.tls_set_context(tls)
    if will is not None:
        client.will_set(will[0], will[1], qos=1, retain=True)
    return client
