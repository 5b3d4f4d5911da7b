from __future__ import annotations

import sys
from itertools import chain
from typing import TYPE_CHECKING

import pytest

from tests.servers.broker import need_mosquitto
from tests.servers.rtsp import need_gstreamer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from tests.benchmarks.conftest import Beside


@pytest.fixture(scope="module")
def soak(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("soak")


def test_a_seed_chooses_the_faults_and_every_kind_comes_once_before_any_comes_twice(soak: ModuleType) -> None:
    faults = soak.plan(0, 1800.0)
    assert faults == soak.plan(0, 1800.0) != soak.plan(1, 1800.0)
    kinds = len(soak.KINDS)
    assert {fault.kind for fault in faults[:kinds]} == {fault.kind for fault in faults[kinds : 2 * kinds]}
    ends = [fault.at + fault.seconds for fault in faults]
    assert all(fault.at > end for fault, end in zip(faults[1:], ends, strict=False))
    assert faults[0].at >= 180
    assert ends[-1] <= 1620


def test_growth_is_what_came_after_the_site_had_settled(soak: ModuleType) -> None:
    sample = sys.modules["live"].Sample
    samples = [
        sample(at=float(at), cpu=0.5 * at, memory_mb=min(at, 100) + (at > 300), threads=9, handles=30)
        for at in range(500)
    ]
    found = soak.grown(samples, settle=200.0)
    assert (found["memory_mb"], found["growth_mb"], found["cores"]) == (101, 1, 0.5)
    assert found["threads"] == [9, 9]


@pytest.mark.beside("soak.py", "--small", "--seconds=180", "--settle=60", "--seed=3")
def test_three_minutes_of_faults_lose_nothing_and_let_nothing_grow(soak: ModuleType, beside: Beside) -> None:
    need_gstreamer()
    need_mosquitto()
    result = beside.result()
    assert result["faults"] >= 3
    assert (result["events_lost"], result["identities_lost"], result["in_order"]) == (0, 0, True)
    assert result["events"] > 100
    # One person stands before each camera: an identity once a fault has made two sightings of them, and nobody new
    # after the next. Three cameras go away for longer than a track waits; a fourth may only flicker.
    found = result["identities_by_camera"].values()
    assert max(len(people) for people in found) == 1
    assert sum(len(people) for people in found) == len(set(chain(*found))) == result["identities"] >= 3
    assert result["growth_mb"] < 20
    assert result["age_s_p95"] < 1
    assert soak.handled_share(result) > 0.5
    assert result["summary"]["latency_ms_p95"] < 1000
    assert result["threads"][1] <= result["threads"][0] + 2
    assert result["handles"][1] <= result["handles"][0] + 4
    assert "events, of which lost" in soak.describe(result)
