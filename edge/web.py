"""The endpoint of a run: `/metrics` for Prometheus, `/health` and `/ready` for whoever looks after the process."""

from __future__ import annotations

import hmac
import io
import ipaddress
import json
import logging
import socket
import threading
import time
from contextlib import closing, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, SecretStr, model_validator

from reidge.edge.errors import ReidgeError
from reidge.edge.exposition import exposition
from reidge.edge.redact import redact_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from reidge.edge.metrics import Metrics

    Problems = Callable[[], Sequence[str]]

MAX_REQUESTS = 8
"""Requests answered at once, so that no client makes threads without end. For a further one, the client is hung up on
that has said nothing for longest; where all have, the further one is turned away."""
ROOM_SECONDS = 0.5
"""How long a further request waits for the one that makes room for it."""
READING_SECONDS = 1.0
"""How long a request for metrics waits for the one before it."""
REQUEST_SECONDS = 5.0
"""How long a client may take to say what it wants, and again to take the answer."""
ASK_SECONDS = 2.0
"""How long whoever listens at our address is waited for, to learn whether it is a reidge."""

log = logging.getLogger(__name__)


class WebConfig(BaseModel, frozen=True, extra="forbid"):
    """Where the endpoint listens."""

    host: str = "127.0.0.1"
    """Address to listen on; one that other machines reach needs a token."""
    port: int = Field(9464, ge=0, le=65535)
    """0 takes any free one."""
    token: SecretStr | None = Field(None, min_length=16)
    """Asked of every request: `Authorization: Bearer <token>`."""

    @model_validator(mode="after")
    def _guarded(self) -> WebConfig:
        if self.token is None and not _is_loopback(self.host):
            raise ValueError(f"{self.host} is reached by other machines. Set web.token, or listen on 127.0.0.1")
        token = "" if self.token is None else self.token.get_secret_value()
        if not (token.isascii() and token.isprintable() and token == token.strip()):
            raise ValueError("a header cannot carry this web.token. Take ASCII letters and digits")
        return self


class Web:
    """Answers in a thread of its own; use it in a `with`.

    Args:
        config: Where to listen.
        metrics: What `/metrics` tells.
        health: Names what is wrong with the process, if anything; `/health` is 503 then, else 200.
        ready: Names what is not there yet, if anything; `/ready` is 503 then, else 200.

    Raises:
        ReidgeError: On entering: the address cannot be listened on, which may be over in a moment.
    """

    def __init__(self, config: WebConfig, metrics: Metrics, *, health: Problems, ready: Problems) -> None:
        self.config = config
        self._metrics = metrics
        self._reading = threading.Lock()
        self._pages: dict[str, Callable[[str], tuple[int, bytes, str]]] = {
            "/metrics": self._tell_metrics,
            "/health": lambda _: _state(health()),
            "/ready": lambda _: _state(ready()),
        }
        self._server: _Server | None = None

    def __enter__(self) -> Web:
        self._server = _listen(self.config, self._pages)
        threading.Thread(target=self._server.serve_forever, args=(0.2,), name="web", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def address(self) -> str:
        """Where it listens, e.g. `http://127.0.0.1:9464`."""
        assert self._server is not None
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def _tell_metrics(self, accept: str) -> tuple[int, bytes, str]:
        """One at a time: should a number not be had because something hangs, `/health` is to be answered still."""
        if not self._reading.acquire(timeout=READING_SECONDS):
            return 503, b"An earlier request is still being answered.\n", "text/plain"
        try:
            return 200, *exposition(self._metrics, accept)
        finally:
            self._reading.release()


def check_web(config: WebConfig) -> str:
    """Try the address; returns what is to be said of it.

    Raises:
        ReidgeError: It cannot be listened on, and it is not a reidge that listens there.
    """
    where = f"{config.host} port {config.port}"
    try:
        _listen(config, {}).server_close()
    except ReidgeError:
        if not _is_reidge(config):
            raise
        return f"{where} is in use by a reidge that runs"
    return f"{where} is free"


def _listen(config: WebConfig, pages: dict[str, Callable[[str], tuple[int, bytes, str]]]) -> _Server:
    try:
        return _Server(config, pages)
    except OSError as error:
        raise ReidgeError(
            f"web: {config.host} port {config.port} cannot be listened on: {error.strerror or error}. "
            "Set web.host or web.port."
        ) from error


def _is_reidge(config: WebConfig) -> bool:
    """Whether one answers there, with or without our token."""
    try:
        with closing(HTTPConnection(config.host, config.port, timeout=ASK_SECONDS)) as connection:
            connection.request("HEAD", "/health")
            return (connection.getresponse().getheader("Server") or "").split()[:1] == [_Handler.server_version]
    except (OSError, HTTPException):
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _state(problems: Sequence[str]) -> tuple[int, bytes, str]:
    answer = {"ok": not problems, "problems": [redact_text(problem) for problem in problems]}
    return (503 if problems else 200), json.dumps(answer).encode() + b"\n", "application/json"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that is slow must not hold up the end of a run

    def __init__(self, config: WebConfig, pages: dict[str, Callable[[str], tuple[int, bytes, str]]]) -> None:
        self.pages = pages
        self.token = None if config.token is None else config.token.get_secret_value().encode()
        self.address_family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        self._silent: dict[socket.socket, None] = {}  # who has not said yet what is wanted, oldest first
        self._guard = threading.Lock()
        super().__init__((config.host, config.port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own asks for this machine's name, for minutes where DNS is dead

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False) and not self._make_room():
            self.shutdown_request(request)
            return
        with self._guard:
            self._silent[request] = None
        try:
            super().process_request(request, client_address)
        except Exception:  # no thread could be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def shutdown_request(self, request: Any) -> None:
        self.heard(request)
        super().shutdown_request(request)

    def heard(self, request: socket.socket) -> None:
        """A client has said what it wants, or is gone."""
        with self._guard:
            self._silent.pop(request, None)

    def _make_room(self) -> bool:
        """Hang up on the client that has said nothing for longest: a few of these would shut all others out."""
        with self._guard:  # under it the connection is not closed by its own thread
            oldest = next(iter(self._silent), None)
            if oldest is None:
                return False
            with suppress(OSError):  # the client was faster
                oldest.shutdown(socket.SHUT_RDWR)
        return self._free.acquire(timeout=ROOM_SECONDS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a request failed", exc_info=True)  # a client that went away, as a rule


class _Head(io.RawIOBase):
    """What a client says, for so many seconds in all: a byte now and then does not keep it connected."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._until = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("no whole request in time")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "reidge", ""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Head(self.connection, REQUEST_SECONDS))

    def parse_request(self) -> bool:
        whole = super().parse_request()
        self.server.heard(self.connection)
        return whole

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if not self._allowed():
            self._answer(401, b"A token is needed: Authorization: Bearer <web.token>\n", "text/plain")
        elif page is None:
            self._answer(404, f"Here are {', '.join(self.server.pages)}.\n".encode(), "text/plain")
        else:
            self._answer(*self._made(page))

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no request of ours, in plain text as everything else."""
        if code == HTTPStatus.NOT_IMPLEMENTED:  # there is no do_... for the method
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, "Only GET and HEAD are answered"
        self.close_connection = True
        self._answer(code, f"{message or HTTPStatus(code).phrase}.\n".encode(), "text/plain")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        log.debug(redact_text(format % args))

    def _allowed(self) -> bool:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        token = self.server.token
        return token is None or (scheme == "Bearer" and hmac.compare_digest(given.strip().encode(), token))

    def _made(self, page: Callable[[str], tuple[int, bytes, str]]) -> tuple[int, bytes, str]:
        try:
            return page(self.headers.get("Accept", ""))
        except Exception as error:
            log.error(
                "web: %s failed: %s: %s", self.path.partition("?")[0], type(error).__name__, redact_text(str(error))
            )
            return 500, b"This failed; the log says why.\n", "text/plain"

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.connection.settimeout(REQUEST_SECONDS)  # anew: for the answer as a whole
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
