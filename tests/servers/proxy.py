"""A network that can be broken: forwards RTSP over TCP to a server of this machine, and spoils it on demand."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

RTP_CLOCK = 90_000
"""Ticks a second of video over RTP."""
SENDER_REPORT = 200
PAYLOAD = 24
"""Bytes of an interleaved RTP packet that are left alone when it is corrupted: framing, headers, kind of the unit."""


class RtspProxy:
    """Listens on a port of its own for as long as the object lives; use it in a `with`.

    Its faults hold until `heal`, for new connections and for those that are open.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.mode: Literal["forward", "stall", "silent", "refuse"] = "forward"
        self.corrupt_share = 0.0
        """Share of the media packets that are damaged."""
        self.jump_seconds = 0.0
        """Added to every clock that the camera sends: timestamps of packets and of its reports."""
        self._cut = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._random = random.Random(0)
        self._listener: socket.socket | None = None
        self._pairs: set[_Pair] = set()

    def __enter__(self) -> RtspProxy:
        self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self._flowing.set()

    def stall(self) -> None:
        """Let nothing through, and keep connections open."""
        self.mode = "stall"
        self._flowing.clear()

    def silence(self) -> None:
        """End what is open, take new connections and never answer them."""
        self.mode = "silent"
        self._hang_up()

    def refuse(self) -> None:
        """End what is open and refuse new connections."""
        self.mode = "refuse"
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
            self._listener.close()
            self._listener = None
        self._hang_up()

    def cut(self) -> None:
        """End the connection in the middle of the next media packet, once."""
        self._cut.set()

    def heal(self) -> None:
        """Forward everything as it comes."""
        self.mode, self.corrupt_share, self.jump_seconds = "forward", 0.0, 0.0
        self._cut.clear()
        self._flowing.set()
        if self._listener is None:
            self._listen()

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                client, _ = listener.accept()
                self._pairs = {pair for pair in self._pairs if pair.open}
                with contextlib.suppress(ConnectionRefusedError):
                    self._pairs.add(_Pair(self, client))

    def _hang_up(self) -> None:
        for pair in tuple(self._pairs):
            pair.close()
        self._pairs = set()

    def spoil(self, packet: bytearray) -> None:
        """Change a media packet as the faults of the moment want."""
        if self.jump_seconds:
            _shift_clocks(packet, self.jump_seconds)
        if len(packet) > PAYLOAD and self._random.random() < self.corrupt_share:
            for _ in range(8):
                packet[self._random.randrange(PAYLOAD, len(packet))] ^= self._random.randrange(1, 256)

    def forward(self, pair: _Pair) -> None:
        """Bring what the server says to the client, message by message."""
        for message in _messages(pair.server):
            self._flowing.wait()
            if message[0] == ord("$"):
                if self._cut.is_set() and len(message) > PAYLOAD:
                    self._cut.clear()
                    pair.client.sendall(message[: len(message) // 2])
                    return
                self.spoil(message)
            pair.client.sendall(message)


class _Pair:
    """A client's connection and, unless the proxy is silent, the one to the server, with a thread for each way."""

    def __init__(self, proxy: RtspProxy, client: socket.socket) -> None:
        self.client = client
        self.open = True
        self.silent = proxy.mode == "silent"
        if self.silent:
            return
        try:
            self.server = socket.create_connection(("127.0.0.1", proxy.target))
        except ConnectionRefusedError:
            client.close()
            raise
        for work in (self._upwards, proxy.forward):
            threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def close(self) -> None:
        self.open = False
        for end in (self.client,) if self.silent else (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _run(self, work: Callable[[_Pair], None]) -> None:
        with contextlib.suppress(OSError):
            work(self)
        self.close()

    def _upwards(self, _: _Pair) -> None:
        while data := self.client.recv(65536):
            self.server.sendall(data)


def _messages(server: socket.socket) -> Iterator[bytearray]:
    """Cut what a server says into media packets, which begin with `$` and their length, and answers."""
    with server.makefile("rb") as stream:
        while first := stream.read(1):
            if first == b"$":
                head = stream.read(3)
                yield bytearray(first + head + stream.read(int.from_bytes(head[1:], "big")))
                continue
            lines = [first + stream.readline()]
            while lines[-1].strip():
                lines.append(stream.readline())
            sizes = [int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")]
            yield bytearray(b"".join(lines) + stream.read(sum(sizes)))


def _shift_clocks(packet: bytearray, seconds: float) -> None:
    """Move the clocks of an interleaved packet: of media on even channels, of a sender's report on odd ones."""

    def add(place: int, form: str, ticks: float) -> None:
        (value,) = struct.unpack_from(form, packet, place)
        struct.pack_into(form, packet, place, int(value + ticks) % 2 ** (8 * struct.calcsize(form)))

    if packet[1] % 2 == 0:
        add(8, ">I", seconds * RTP_CLOCK)
    elif len(packet) >= 24 and packet[5] == SENDER_REPORT:
        add(12, ">Q", seconds * 2**32)
        add(20, ">I", seconds * RTP_CLOCK)
