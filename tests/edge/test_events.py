from __future__ import annotations

import json

from reidge.edge.events import Event, iso_time


def sighting(track_id: int = 1) -> Event:
    return Event(
        event="sighting.started", captured_at=iso_time(0.25), camid="cam1", track_id=track_id, box=(1, 2, 3, 4)
    )


def test_time_is_iso_8601_in_utc() -> None:
    assert iso_time(1_750_000_000.25) == "2025-06-15T15:06:40.250Z"


def test_an_event_is_one_object_with_every_field() -> None:
    event = json.loads(sighting().model_dump_json())
    assert event.pop("event_id")
    assert event == {
        "schema_version": 1,
        "event": "sighting.started",
        "captured_at": "1970-01-01T00:00:00.250Z",
        "camid": "cam1",
        "track_id": 1,
        "sighting_id": None,
        "global_id": None,
        "similarity": None,
        "box": [1, 2, 3, 4],
        "merged_from": None,
        "split_from": None,
        "reason": None,
    }


def test_event_ids_are_unique() -> None:
    assert len({sighting().event_id for _ in range(1000)}) == 1000
