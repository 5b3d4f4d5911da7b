from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from reidge.edge.sources import reach
from reidge.edge.sources.reach import answers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def reply(listener: socket.socket, text: bytes) -> list[bytes]:
    """Answer the first who asks, and keep what he said."""
    heard: list[bytes] = []

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            heard.append(client.recv(4096))
            client.sendall(text)

    threading.Thread(target=serve, daemon=True).start()
    return heard


def test_a_server_answers_even_when_it_refuses_and_is_not_told_the_password(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    heard = reply(listener, b"RTSP/1.0 401 Unauthorized\r\n\r\n")
    assert answers(f"rtsp://viewer:secret@127.0.0.1:{port}/hall?token=secret")
    assert heard[0].startswith(f"OPTIONS rtsp://127.0.0.1:{port}/ RTSP/1.0\r\n".encode())
    assert b"secret" not in heard[0]


def test_a_stopped_server_whose_kernel_takes_connections_does_not_answer(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "WAIT", 0.2)
    began = time.monotonic()
    assert answers(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/a") is False
    assert time.monotonic() - began < 5


def test_a_proxy_that_hangs_up_does_not_answer(listener: socket.socket) -> None:
    reply(listener, b"")
    assert answers(f"http://127.0.0.1:{listener.getsockname()[1]}/a") is False


def test_a_closed_port_does_not_answer(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    assert answers(f"rtmp://127.0.0.1:{port}/a") is False


@pytest.mark.parametrize("source", ["udp://127.0.0.1:9", "srt://127.0.0.1:9", "rtsp://"])
def test_what_is_not_reached_over_tcp_cannot_be_told(source: str) -> None:
    assert answers(source) is None


def test_a_device_answers_when_it_is_plugged_in(tmp_path: Path) -> None:
    device = tmp_path / "video0"
    assert answers(str(device)) is False
    device.touch()
    assert answers(str(device)) is True
