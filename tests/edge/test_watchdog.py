from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from reidge.edge import watchdog as module
from reidge.edge.watchdog import Watchdog, WatchdogConfig

if TYPE_CHECKING:
    import pytest


class Door:
    """Takes note of the status with which the process would have ended."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.opened = threading.Event()

    def __call__(self, status: int) -> None:
        self.status = status
        self.opened.set()


def test_a_stuck_loop_is_named_and_ends_the_process_with_status_1(caplog: pytest.LogCaptureFixture) -> None:
    door, said = Door(), []
    with Watchdog(WatchdogConfig(seconds=0.2), threading.Event(), leave=door) as subject:
        subject.last_words = lambda: said.append("tracks ended")
        subject.beat("detect")
        door.opened.wait(10.0)  # hangs, as native code would
    assert door.status == 1
    assert said == ["tracks ended"]
    assert "stage detect, threading.py:" in caplog.text


def test_the_process_ends_although_its_last_words_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_WORDS_SECONDS", 0.1)
    door = Door()
    with Watchdog(WatchdogConfig(seconds=0.1), threading.Event(), leave=door) as subject:
        subject.last_words = lambda: time.sleep(5.0)
        subject.beat("track")
        assert door.opened.wait(3.0)


def test_a_loop_that_goes_on_lives(caplog: pytest.LogCaptureFixture) -> None:
    door = Door()
    with Watchdog(WatchdogConfig(seconds=2.0), threading.Event(), leave=door) as subject:
        for _ in range(8):
            subject.beat("wait")
            time.sleep(0.1)
    assert door.status is None
    assert not caplog.records


# Beats once for every line that it is given.
BEATS = """
import sys, threading
from reidge.edge.watchdog import Watchdog, WatchdogConfig
with Watchdog(WatchdogConfig(seconds=2), threading.Event()) as subject:
    for line in sys.stdin:
        subject.beat("detect")
        print("beat", flush=True)
"""


def test_a_pause_of_the_whole_process_is_no_silence_of_the_loop() -> None:
    command = [sys.executable, "-c", BEATS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print("go on", file=process.stdin, flush=True)
        assert process.stdout.readline() == "beat\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.6)  # the stage in which it was stopped takes its time still
        print("go on", file=process.stdin, flush=True)
        assert process.stdout.readline() == "beat\n"
        process.stdin.close()
        assert process.wait(10.0) == 0


def test_a_start_may_take_as_long_as_it_takes() -> None:
    door = Door()
    with Watchdog(WatchdogConfig(seconds=0.1), threading.Event(), leave=door):
        assert not door.opened.wait(0.8)


def test_a_run_that_does_not_end_is_ended_with_status_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.2)
    door, stop = Door(), threading.Event()
    with Watchdog(WatchdogConfig(seconds=None), stop, leave=door) as subject:
        subject.beat("embed")
        stop.set()
        assert door.opened.wait(10.0)
    assert door.status == 0
