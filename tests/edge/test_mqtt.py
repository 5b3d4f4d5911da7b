"""Against a real mosquitto."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from reidge.edge.camera import CameraConfig
from reidge.edge.check import Finding, check_site
from reidge.edge.errors import InputError
from reidge.edge.events import Event, iso_time
from reidge.edge.metrics import Metrics
from reidge.edge.outputs import OutputConfig, Outputs, link
from reidge.edge.outputs import broker as broker_module
from reidge.edge.outputs.mqtt import MqttConfig
from reidge.edge.settings import validate
from reidge.edge.site import Site
from tests.servers.broker import Broker, Reader, need_mosquitto
from tests.servers.disk import largest_file

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


def test_no_camera_of_a_site_that_stopped_is_left_as_up(broker: Broker) -> None:
    with Outputs(config_of(broker)) as outputs:
        for camid in ("cam1", "cam2"):
            outputs.write(Event(event="camera.up", captured_at=iso_time(1), camid=camid))
        outputs.write(Event(event="camera.down", captured_at=iso_time(2), camid="cam2", reason="the stream ended"))
        wait_until(lambda: outputs.trouble == {})
    with Reader(broker) as reader:
        wait_until(lambda: len(reader.messages) == 3)
        found = dict(reader.messages)
    assert (found["reidge/hall/status"]["status"], found["reidge/hall/status"]["reason"]) == ("offline", "stopped")
    of_cam1, of_cam2 = (found[f"reidge/hall/cameras/{camid}/status"] for camid in ("cam1", "cam2"))
    assert (of_cam1["status"], of_cam1["reason"]) == ("down", "stopped")
    assert of_cam1["captured_at"] > iso_time(2)
    assert of_cam2 == {"status": "down", "captured_at": iso_time(2), "reason": "the stream ended"}


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


def test_what_a_power_failure_left_in_the_spool_is_lost_alone(broker: Broker) -> None:
    spool = broker.folder / "spool"
    spool.mkdir()
    whole = [sighting(number).model_dump_json().encode() + b"\n" for number in (1, 2)]
    (spool / f"{1:016d}.jsonl").write_bytes(whole[0] + bytes(100) + b"\n" + whole[1] + whole[0][:50])
    with Reader(broker) as reader, Outputs(config_of(broker)) as outputs:
        outputs.write(sighting(3))
        wait_until(lambda: len(reader.events) == 3)
        assert outputs.flush(10)
    assert track_ids(reader) == [1, 2, 3]
    assert outputs.lost == 1


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
        # The broker tells it as it was given, when the connection began; a time would be of then.
        assert dict(reader.messages)["reidge/hall/status"]["at"] is None
        with Outputs(config) as outputs:
            outputs.write(Event(event="sighting.ended", captured_at=iso_time(0), camid="cam1", track_id=-1))
            wait_until(lambda: track_ids(reader)[-1:] == [-1])
        found = without_repeats(reader.events)
        assert found == [*range(len(found) - 1), -1]  # no gap, no change of order
        assert len(found) > spooled


def test_two_boxes_of_one_name_are_told_apart_from_a_bad_network(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with Outputs(config_of(broker)), Outputs(config_of(broker, spool=broker.folder / "second")):
        wait_until(lambda: "is another client called reidge-hall too?" in caplog.text)
    assert "Unspecified" not in caplog.text


def test_a_broker_that_refuses_is_said_without_the_password(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    with Outputs(config_of(broker, password="wr@ng:pass")) as outputs:
        outputs.write(sighting(1))
        wait_until(lambda: "refuses" in str(outputs.trouble))
        assert outputs.flush(10)
    assert "the broker refuses" in caplog.text
    assert "wr@ng" not in caplog.text + str(outputs.trouble)
    assert "1 events wait in the spool for the next run" in caplog.text


def test_a_broker_that_stands_still_is_left_and_found_again(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ACKNOWLEDGE_SECONDS", 1.0)
    with Reader(broker) as reader, Outputs(config_of(broker)) as outputs:
        outputs.write(sighting(0))
        wait_until(lambda: len(reader.events) == 1)
        broker.signal(signal.SIGSTOP)
        outputs.write(sighting(1))
        wait_until(lambda: "acknowledged nothing" in str(outputs.trouble))
        broker.signal(signal.SIGCONT)
        wait_until(lambda: len(reader.events) >= 2 and not outputs.trouble)
    assert without_repeats(reader.events) == [0, 1]


def test_a_broker_that_takes_connections_and_never_answers_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = MqttConfig(host="127.0.0.1", port=silent.getsockname()[1], spool=tmp_path / "spool")
        with Outputs(OutputConfig(events=None, mqtt=settings)) as outputs:
            wait_until(lambda: "takes connections and does not answer" in str(outputs.trouble))


def test_a_full_disk_does_not_keep_events_from_the_broker(broker: Broker) -> None:
    with Reader(broker) as reader, Outputs(config_of(broker)) as outputs:
        wait_until(lambda: not outputs.trouble)
        with largest_file(300):  # not one event fits
            for number in range(50):
                outputs.write(sighting(number))
            wait_until(lambda: len(reader.events) == 50)
        assert outputs.flush(10)
    assert track_ids(reader) == list(range(50))
    assert outputs.lost == 0


def test_beyond_the_bound_of_the_spool_the_oldest_are_lost_and_counted(broker: Broker) -> None:
    broker.stop()
    size = len(sighting(100).model_dump_json()) + 1
    metrics = Metrics()
    with Outputs(config_of(broker, spool_mib=50 * size / 2**20), metrics=metrics) as outputs:
        for number in range(100, 200):
            outputs.write(sighting(number))
        assert outputs.flush(10)
        lost = outputs.lost
        assert 50 <= lost < 60
        assert metrics.summary()["gauges"]["output_waiting"] == {"mqtt": 100 - lost}
        broker.start()
        with Reader(broker) as reader:
            wait_until(lambda: len(reader.events) == 100 - lost)
    assert track_ids(reader) == list(range(100 + lost, 200))
    assert metrics.summary()["counters"]["output_lost"] == {"mqtt": lost}


def make_certificates(folder: Path) -> None:
    """An authority, and a certificate for `localhost` that it signed."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder.mkdir()
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
        "req -newkey rsa:2048 -nodes -keyout broker.key -out broker.csr -subj /CN=localhost",
        "x509 -req -in broker.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out broker.pem -days 2 -extfile names",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


# paho leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_over_tls_the_broker_is_recognised_by_its_authority(tmp_path: Path) -> None:
    need_mosquitto()
    make_certificates(tmp_path / "pki")
    with Broker(tmp_path / "broker", password=PASSWORD, options=f"""
certfile {tmp_path}/pki/broker.pem
keyfile {tmp_path}/pki/broker.key
""") as broker:  # fmt: skip
        trusted = {"host": "localhost", "tls": {"ca": tmp_path / "pki" / "ca.pem"}}
        with Outputs(config_of(broker, **trusted)) as outputs:
            for number in range(200):
                outputs.write(sighting(number))
            wait_until(lambda: not outputs.trouble)
            wait_until(lambda: outputs.flush(10) and outputs.lost == 0)
        for untrusted in ({"host": "localhost", "tls": {}}, trusted | {"host": "127.0.0.1"}):
            with Outputs(config_of(broker, **untrusted)) as outputs:
                wait_until(lambda outputs=outputs: "CERTIFICATE_VERIFY_FAILED" in str(outputs.trouble))  # type: ignore[misc]


def test_a_certificate_that_is_missing_is_one_line_at_the_start(tmp_path: Path) -> None:
    settings = MqttConfig.model_validate({"host": "h", "spool": tmp_path / "s", "tls": {"ca": tmp_path / "none.pem"}})
    with (
        pytest.raises(InputError, match=r"none\.pem: No such file or directory\. Give certificates as PEM files"),
        Outputs(OutputConfig(events=None, mqtt=settings)),
    ):
        pass


def test_the_check_tells_whether_the_broker_lets_us_in(broker: Broker, tiny_bundle: Path, still: Path) -> None:
    def found(**settings: Any) -> Finding:
        camera = CameraConfig(name="cam1", source=str(still))
        site = Site(bundle=tiny_bundle, cameras=(camera,), outputs=config_of(broker, **settings))
        return next(finding for finding in check_site(site) if finding.part == "outputs.mqtt")

    assert found().state == "ok"
    refused = found(password="wrong")
    assert (refused.state, refused.text) == ("wrong", "the broker refuses: Not authorized")
    broker.stop()
    assert found().state == "away"


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
