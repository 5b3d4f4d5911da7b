"""Against a real mosquitto."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from reidge.edge.errors import InputError
from reidge.edge.events import Event, iso_time
from reidge.edge.metrics import Metrics
from reidge.edge.outputs import OutputConfig, Outputs
from reidge.edge.outputs.mqtt import MqttConfig
from reidge.edge.settings import validate
from tests.servers.broker import Broker, Reader, need_mosquitto

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PASSWORD = "p@ss:w/rd %40#"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    need_mosquitto()
    with Broker(tmp_path / "broker", password=PASSWORD) as broker:
        yield broker


def config_of(broker: Broker, **settings: Any) -> OutputConfig:
    known = {"host": "127.0.0.1", "port": broker.port, "user": broker.user, "password": PASSWORD, "site": "hall"}
    known["spool"] = broker.folder / "spool"
    return OutputConfig(events=None, mqtt=MqttConfig.model_validate(known | settings))


def sighting(track_id: int) -> Event:
    return Event(event="sighting.updated", captured_at=iso_time(track_id), camid="cam1", track_id=track_id)


def wait_until(what: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.02)


def track_ids(reader: Reader) -> list[int]:
    return [event["track_id"] for event in reader.events]


def without_repeats(events: list[dict[str, Any]]) -> list[int]:
    return [event["track_id"] for event in {event["event_id"]: event for event in events}.values()]


def test_an_event_arrives_as_it_is_under_its_kind(broker: Broker) -> None:
    event = sighting(7)
    with Reader(broker) as reader, Outputs(config_of(broker)) as outputs:
        outputs.write(event)
        wait_until(lambda: reader.events)
        topic, payload = next(found for found in reader.messages if "event_id" in found[1])
        assert topic == "reidge/hall/events/sighting.updated"
        assert payload == json.loads(event.model_dump_json())
        assert outputs.flush(10)


def test_status_of_site_and_cameras_is_there_for_whoever_comes_later(broker: Broker) -> None:
    with Outputs(config_of(broker, prefix="a/b")) as outputs:
        outputs.write(Event(event="camera.up", captured_at=iso_time(1), camid="cam1"))
        outputs.write(Event(event="camera.up", captured_at=iso_time(1), camid="cam2"))
        reason = "rtsp://u:secret@10.0.0.9/s: the stream ended"
        outputs.write(Event(event="camera.down", captured_at=iso_time(2), camid="cam2", reason=reason))
        assert outputs.flush(10)
        wait_until(lambda: outputs.trouble == {})
        with Reader(broker) as reader:
            wait_until(lambda: len(reader.messages) == 3)
            found = dict(reader.messages)
    assert found["a/b/hall/status"]["status"] == "online"
    assert found["a/b/hall/cameras/cam1/status"]["status"] == "up"
    assert found["a/b/hall/cameras/cam2/status"] == {
        "status": "down",
        "captured_at": iso_time(2),
        "reason": "rtsp://10.0.0.9/s: the stream ended",
    }
    with Reader(broker) as reader:
        wait_until(lambda: dict(reader.messages).get("a/b/hall/status", {}).get("reason") == "stopped")


def test_nothing_is_lost_and_order_is_kept_while_the_broker_is_away(broker: Broker) -> None:
    metrics = Metrics()
    with Reader(broker) as reader, Outputs(config_of(broker), metrics=metrics) as outputs:
        for number in range(100):
            outputs.write(sighting(number))
        wait_until(lambda: len(reader.events) >= 100)
        broker.stop()
        for number in range(100, 300):
            outputs.write(sighting(number))
        wait_until(lambda: outputs.trouble)
        assert outputs.flush(10)  # all is on disk
        broker.start()
        wait_until(lambda: len(reader.events) >= 300)
        wait_until(lambda: not outputs.trouble)
    assert without_repeats(reader.events) == list(range(300))
    counters = metrics.summary()["counters"]
    assert counters["output_delivered"] == {"mqtt": 300}
    assert "output_lost" not in counters


def test_events_of_an_earlier_run_go_first(broker: Broker) -> None:
    broker.stop()
    with Outputs(config_of(broker)) as outputs:
        for number in range(10):
            outputs.write(sighting(number))
    broker.start()
    with Reader(broker) as reader, Outputs(config_of(broker)) as outputs:
        for number in range(10, 20):
            outputs.write(sighting(number))
        wait_until(lambda: len(reader.events) >= 20)
    assert track_ids(reader) == list(range(20))


KILLED = """
import json, sys
from reidge.edge.events import Event, iso_time
from reidge.edge.outputs import OutputConfig, Outputs
with Outputs(OutputConfig.model_validate_json(sys.stdin.readline())) as outputs:
    for number in range(10_000_000):
        event = Event(event="sighting.updated", captured_at=iso_time(number), camid="cam1", track_id=number)
        outputs.write(event)
        if number % 50 == 49:
            outputs.flush(0.02)
            print(number, flush=True)
"""


def test_after_sigkill_the_next_run_sends_the_rest_and_repeats_keep_their_id(broker: Broker) -> None:
    config = config_of(broker)
    assert config.mqtt is not None
    settings = json.loads(config.model_dump_json())
    settings["mqtt"]["password"] = PASSWORD  # which is not shown
    with Reader(broker) as reader:
        command = [sys.executable, "-c", KILLED]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(settings) + "\n")
            process.stdin.flush()
            spooled = 0
            while spooled < 2000:
                spooled = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        wait_until(lambda: dict(reader.messages)["reidge/hall/status"]["reason"] == "the connection was lost")
        with Outputs(config) as outputs:
            outputs.write(Event(event="sighting.ended", captured_at=iso_time(0), camid="cam1", track_id=-1))
            wait_until(lambda: track_ids(reader)[-1:] == [-1])
        found = without_repeats(reader.events)
        assert found == [*range(len(found) - 1), -1]  # no gap, no change of order
        assert len(found) > spooled


def test_a_broker_that_refuses_is_said_without_the_password(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    with Outputs(config_of(broker, password="wr@ng:pass")) as outputs:
        outputs.write(sighting(1))
        wait_until(lambda: "refuses" in str(outputs.trouble))
        assert outputs.flush(10)
    assert "the broker refuses" in caplog.text
    assert "wr@ng" not in caplog.text + str(outputs.trouble)
    assert "1 events wait in the spool for the next run" in caplog.text


def test_a_wrong_setting_is_one_line() -> None:
    for settings, message in [
        ({"host": "h", "password": "hidden"}, r"a password without a user\. Set user too"),
        ({"host": "h", "prefix": "a/#"}, "prefix"),
        ({"host": "h", "site": "a/b"}, "site"),
        ({"host": "h", "topic": "x"}, "unknown key 'topic'"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            validate(MqttConfig, settings, where="site.yaml")
        assert "hidden" not in str(caught.value)
        assert "\n" not in str(caught.value)
