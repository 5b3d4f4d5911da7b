from __future__ import annotations

import threading
import time

from reidge.edge.rates import Rates


def rates_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rates"]


def test_every_camera_is_told_one_after_the_other() -> None:
    told: dict[str, float] = {}
    Rates(lambda camid, rate: told.update({camid: time.monotonic()})).spread(("a", "b", "c"), 10.0)
    for thread in rates_threads():
        thread.join(10.0)
    # A tenth of a second from one frame to the next, a third of that for each camera.
    assert told["b"] - told["a"] >= 0.033
    assert told["c"] - told["b"] >= 0.033


def test_a_camera_that_was_removed_keeps_no_other_one_from_its_rate() -> None:
    rates: dict[str, float | None] = {"a": None, "c": None}

    def set_rate(camid: str, rate: float | None) -> None:
        if camid not in rates:
            raise KeyError(camid)
        rates[camid] = rate

    Rates(set_rate).spread(("a", "removed", "c"), 50.0)
    for thread in rates_threads():
        thread.join(10.0)
    assert rates == {"a": 50.0, "c": 50.0}


def test_a_rate_that_was_overruled_is_never_set_after_the_newer_one() -> None:
    rates: dict[str, float | None] = {}
    begun = threading.Event()

    def set_rate(camid: str, rate: float | None) -> None:
        if rate is not None:
            begun.set()
            time.sleep(0.3)  # the other thread has the processor just now
        rates[camid] = rate

    subject = Rates(set_rate)
    subject.spread(("a", "b"), 100.0)
    assert begun.wait(10.0)
    subject.spread(("a", "b"), None)
    for thread in rates_threads():
        thread.join(10.0)
    assert rates == {"a": None, "b": None}
