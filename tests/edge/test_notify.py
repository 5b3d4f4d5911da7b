from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from reidge.edge.notify import ServiceManager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A socket such as systemd's, and the environment that leads to it."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(path)
        ours.settimeout(1.0)
        yield ours, {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}


def test_systemd_is_told_each_step(manager: tuple[socket.socket, dict[str, str]]) -> None:
    theirs, environment = manager
    subject = ServiceManager(environment)
    subject.ready()
    subject.reloading()
    subject.status("2 of 4 cameras give frames")
    subject.status("2 of 4 cameras give frames")  # nothing new
    subject.stopping()
    received = [theirs.recv(256).decode() for _ in range(4)]
    assert received[0] == "READY=1"
    assert received[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert received[2:] == ["STATUS=2 of 4 cameras give frames", "STOPPING=1"]


def test_signs_of_life_are_rare(manager: tuple[socket.socket, dict[str, str]]) -> None:
    theirs, environment = manager
    subject = ServiceManager(environment)
    for _ in range(100):
        subject.alive()
    assert theirs.recv(256) == b"WATCHDOG=1"
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(256)


def test_a_watchdog_that_waits_for_another_process_gets_nothing(manager: tuple[socket.socket, dict[str, str]]) -> None:
    theirs, environment = manager
    ServiceManager(environment | {"WATCHDOG_PID": "1"}).alive()
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(256)


def test_a_socket_in_the_abstract_namespace_is_found() -> None:
    name = f"reidge-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs:
        theirs.bind(f"\0{name}")
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert theirs.recv(256) == b"READY=1"


def test_without_a_manager_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}):
        subject = ServiceManager(environment)
        subject.ready()
        subject.alive()
