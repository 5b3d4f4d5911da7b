"""A running site against real servers, a real broker and a real disk, all of which fail."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from base64 import b64encode
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import cv2
import numpy as np
import pytest

from tests.conftest import BLUE, GREEN, RED, WHITE, draw_walk
from tests.servers.broker import Broker, Reader, need_mosquitto
from tests.servers.fragile import write_fragile_detector
from tests.servers.proxy import RtspProxy
from tests.servers.rtsp import Mount, RtspServer, need_gstreamer
from tests.servers.running import AGE, Ages, Running
from tests.servers.streams import write_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STEADY = ("steady", "other", "flash")
"""Cameras that nothing happens to; one frame of `flash` in 40 is white, at which the detector fails."""
PASSWORDS = {
    "steady": "p@ss:w/rd",
    "other": "a?b#c&d=e",
    "flash": "%40%2Fx%",
    "victim": "sp ace\"quo'te pä€",
    "mqtt": "m@q:t/t?!",
}
USER = "somebody-at-"
FRESH = 1.0
"""Largest frame age of a healthy camera, at 95 % of the moments; also from a frame's arrival to its last event."""
LEAST_HANDLED = 1 / 3
"""Share of a healthy camera's frames that the loop looks at; even so the newest is looked at three times a second."""
BROKER_AWAY = 60.0
"""Seconds; far more events than one window of the broker's answers wait meanwhile."""
RECOVERY = 5.0
"""Seconds after which a camera that can be reached again gives frames."""


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Somebody stands in front of each camera; `larger` is what `victim` shows after it was set to another size."""
    need_gstreamer()
    folder = tmp_path_factory.mktemp("streams")
    shirts = {"steady": RED, "other": GREEN, "flash": WHITE, "victim": BLUE}
    pictures = {name: list(draw_walk([(shirt, WHITE, 145, 0, 50)], 40)) for name, shirt in shirts.items()}
    pictures["larger"] = [cv2.resize(image, (640, 360)) for image in pictures["victim"]]  # type: ignore[misc]
    pictures["flash"][20] = np.full_like(pictures["flash"][20], 255)
    codecs: dict[str, Any] = {"other": "h265", "flash": "mjpeg"}
    return {
        name: write_stream(folder / f"{name}.json", images, codec=codecs.get(name, "h264"))
        for name, images in pictures.items()
    }


@dataclass(slots=True, kw_only=True)
class Scene:
    """A site with four cameras, and what can be done to it."""

    running: Running
    ages: Ages
    server: RtspServer
    """Of the victim."""
    proxy: RtspProxy
    """Between the victim and its server."""
    broker: Broker
    reader: Reader
    disk: Path
    """Where events, spool and gallery are."""
    is_small: bool
    """Whether that is a file system of its own, which can be filled."""
    answers: list[str] = field(default_factory=list)
    """What the endpoint said."""

    def age(self, camid: str) -> float:
        """Seconds since the newest frame of a camera."""
        return self.running.metrics().get(AGE, {}).get(camid, float("inf"))

    def counter(self, name: str, camid: str) -> float:
        return self.running.metrics().get(f"reidge_{name}_total", {}).get(camid, 0.0)

    def is_fresh(self, camid: str) -> bool:
        return bool(self.running.is_up(camid)) and self.age(camid) < FRESH

    @contextmanager
    def others_stay_fresh(self) -> Iterator[None]:
        """Whatever happens inside, the other cameras give frames that are looked at."""
        since, before = time.monotonic(), self.running.metrics()
        yield
        time.sleep(max(0.0, 1.0 - (time.monotonic() - since)))  # enough for the ages to be asked for a few times
        after = self.running.metrics()

        def grown(name: str, key: str) -> float:
            return after[f"reidge_{name}"][key] - before.get(f"reidge_{name}", {}).get(key, 0.0)

        for camid in STEADY:
            assert self.ages.p95(camid, since) < FRESH  # as the reader's thread says, which the loop may leave alone
            assert grown("frames_handled_total", camid) > LEAST_HANDLED * grown("frames_decoded_total", camid) > 0
        assert self.ages.loop_p95(since) < FRESH
        in_time = sum(grown("stage_seconds_bucket", f"{camid},{FRESH},event") for camid in STEADY)
        assert in_time >= 0.95 * sum(grown("stage_seconds_count", f"{camid},event") for camid in STEADY)
        assert self.running.ask("/health")[0] == 200
        self.answers += [self.running.ask(path)[1] for path in ("/metrics", "/health", "/ready")]


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Make `folder` a disk of 4 MiB; False where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def site_of(cameras: dict[str, str], *, bundle: Path, detector: Path, disk: Path, broker: Broker) -> dict[str, Any]:
    """A site file's content; addresses and passwords come from the environment."""
    return {
        "bundle": str(bundle),
        "cameras": [{"name": name, "source": f"${{{name.upper()}}}"} for name in cameras],
        "detector": {"kind": "boxes", "path": str(detector), "boxes": "found", "threads": 1},
        "encoder": {"backend": "onnxruntime", "threads": 1},
        "identity": {"min_similarity": 0.8, "updates_every": 0.3, "min_embeddings_new": 6, "min_sightings": 1},
        "storage": {"gallery": str(disk / "gallery.sqlite")},
        "outputs": {
            "events": str(disk / "events.jsonl"),
            "mqtt": {
                "host": "127.0.0.1",
                "port": broker.port,
                "user": broker.user,
                "password": "${MQTT_PASSWORD}",
                "site": "lab",
                "spool": str(disk / "spool"),
            },
        },
    }


def environment_of(cameras: dict[str, str], broker: Broker) -> dict[str, str]:
    return {name.upper(): address for name, address in cameras.items()} | {"MQTT_PASSWORD": broker.password}


@pytest.fixture(scope="module")
def parts(make_tiny_bundle: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Bundle and detector."""
    folder = tmp_path_factory.mktemp("parts")
    return make_tiny_bundle(folder / "bundle"), write_fragile_detector(folder / "one.onnx")


@pytest.fixture(scope="module")
def scene(
    streams: dict[str, Path], parts: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """The site, running, with all cameras up."""
    need_mosquitto()
    folder = tmp_path_factory.mktemp("scene")
    disk = folder / "disk"
    disk.mkdir()
    mounts = {
        name: Mount(file=streams[name], user=USER + name, password=PASSWORDS[name]) for name in (*STEADY, "victim")
    }
    victim = {"victim": mounts.pop("victim")}
    with ExitStack() as stack:
        is_small = stack.enter_context(small_disk(disk))
        healthy, server = stack.enter_context(RtspServer(mounts)), stack.enter_context(RtspServer(victim))
        proxy = stack.enter_context(RtspProxy(server.port))
        broker = stack.enter_context(Broker(folder / "broker", user=USER + "mqtt", password=PASSWORDS["mqtt"]))
        reader = stack.enter_context(Reader(broker))
        cameras = {name: healthy.address(name) for name in mounts}
        cameras["victim"] = server.address("victim", port=proxy.port)
        site = site_of(cameras, bundle=parts[0], detector=parts[1], disk=disk, broker=broker)
        running = stack.enter_context(Running(folder / "run", site, environment_of(cameras, broker)))
        ages = stack.enter_context(Ages(running))
        scene = Scene(
            running=running, ages=ages, server=server, proxy=proxy, broker=broker, reader=reader, disk=disk,
            is_small=is_small,
        )  # fmt: skip
        running.wait_for(lambda: all(scene.is_fresh(name) for name in cameras), "frames of all cameras")
        running.wait_for(lambda: len(running.events("identity.created")) >= 3, "identities")
        yield scene
        assert running.stop() < 5
        # Whatever befell it, here and in its last moments.
        messages = "".join(f"{topic} {json.dumps(said)}" for topic, said in tuple(reader.messages))
        assert credentials_in(written_in(disk, running.folder) + "".join(scene.answers) + messages) == []


def written_in(*folders: Path) -> str:
    """All files there as one text, but for the site file, which is not of the site's making."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "site.yaml"]
    return "\n".join(path.read_bytes().decode(errors="replace") for path in files)


def credentials_in(text: str) -> list[str]:
    """Whose user or password stands in a text: plain, as in an address, JSON or Python, or as HTTP and RTSP send it."""
    found = [USER] if USER in text else []
    for name, password in PASSWORDS.items():
        pair = b64encode(f"{USER}{name}:{password}".encode()).decode()
        in_json = [json.dumps(password, ensure_ascii=escaped)[1:-1] for escaped in (True, False)]
        quoted = [quote(password, safe=""), quote_plus(password), quote(password)]
        if any(form in text for form in (password, *quoted, *in_json, repr(password)[1:-1], pair)):
            found.append(name)
    return found


@pytest.mark.parametrize(
    "text",
    [
        "sp ace\"quo'te pä€",
        "rtsp://host/sp%20ace%22quo%27te%20p%C3%A4%E2%82%AC",
        '{"reason": "sp ace\\"quo\'te p\\u00e4\\u20ac"}',
        '{"reason": "sp ace\\"quo\'te pä€"}',
        "Basic c29tZWJvZHktYXQtdmljdGltOnNwIGFjZSJxdW8ndGUgcMOk4oKs",
    ],
)
def test_a_credential_that_was_written_is_found_in_any_form(text: str) -> None:
    assert credentials_in(f"left {text} right") == ["victim"]


def test_an_address_without_its_credential_is_none() -> None:
    assert credentials_in("rtsp://127.0.0.1:8554/victim refuses us: 401, pass=***") == []


OUTAGES: dict[str, tuple[Callable[[Scene], None], Callable[[Scene], None], float]] = {
    "the server stalls": (lambda scene: scene.server.stall(), lambda scene: scene.server.go_on(), 1.0),
    "the server is killed": (lambda scene: scene.server.kill(), lambda scene: scene.server.start(), 8.0),
    "the network refuses": (lambda scene: scene.proxy.refuse(), lambda scene: scene.proxy.heal(), 3.0),
    "nobody answers": (lambda scene: scene.proxy.silence(), lambda scene: scene.proxy.heal(), 3.0),
}
"""What fails, how it is healed, and the seconds that it lasts after the camera was told to be down."""


@pytest.mark.parametrize("name", OUTAGES)
def test_a_camera_is_back_within_5_s_and_the_others_never_notice(scene: Scene, name: str) -> None:
    fail, heal, seconds = OUTAGES[name]
    with scene.others_stay_fresh():
        fail(scene)
        scene.running.wait_for(lambda: scene.running.is_up("victim") is False, "camera.down")
        time.sleep(seconds)
        heal(scene)
        assert scene.running.wait_for(lambda: scene.is_fresh("victim"), "return") < RECOVERY


def test_a_connection_that_is_cut_in_the_middle_of_a_frame_is_made_anew(scene: Scene) -> None:
    before = scene.counter("camera_connections", "victim")
    with scene.others_stay_fresh():
        scene.proxy.cut()
        scene.running.wait_for(lambda: scene.counter("camera_connections", "victim") > before, "new connection")
        # It is counted before camera.up is in the file.
        assert scene.running.wait_for(lambda: scene.is_fresh("victim"), "return") < RECOVERY


def test_a_wrong_password_is_told_and_costs_nobody_else_anything(scene: Scene) -> None:
    right = scene.server.mounts["victim"]
    with scene.others_stay_fresh():
        scene.server.kill()
        scene.server.mounts["victim"] = dataclasses.replace(right, password="another")
        scene.server.start()
        scene.running.wait_for(lambda: scene.running.is_up("victim") is False, "camera.down")
        time.sleep(1.0)
        scene.server.kill()
        scene.server.mounts["victim"] = right
        scene.server.start()
        # Attempts with a wrong password become rare at once, because cameras lock accounts.
        scene.running.wait_for(lambda: scene.is_fresh("victim"), "return", seconds=20)


def test_a_picture_that_changes_its_size_in_mid_stream_is_followed(scene: Scene, streams: dict[str, Path]) -> None:
    def widest() -> float:
        boxes = [event["box"] for event in scene.running.events("sighting.updated", camid="victim")]
        return float(boxes[-1][2])

    assert widest() < 200
    with scene.others_stay_fresh():
        scene.server.play("victim", streams["larger"])
        scene.running.wait_for(lambda: widest() > 350, "larger boxes", seconds=RECOVERY)
        scene.server.play("victim", streams["victim"])
        scene.running.wait_for(lambda: widest() < 200, "smaller boxes", seconds=RECOVERY)


def test_corrupt_packets_do_no_lasting_harm(scene: Scene) -> None:
    with scene.others_stay_fresh():
        scene.proxy.corrupt_share = 0.5
        time.sleep(3)
        scene.proxy.heal()
        assert scene.running.wait_for(lambda: scene.is_fresh("victim"), "return") < RECOVERY


@pytest.mark.parametrize("hours", [1, -1])
def test_a_camera_whose_clock_jumps_keeps_the_time_of_day(scene: Scene, hours: int) -> None:
    def updates() -> list[dict[str, Any]]:
        return scene.running.events("sighting.updated", camid="victim")

    with scene.others_stay_fresh():
        known = len(updates())
        scene.proxy.jump_seconds = hours * 3600.0
        time.sleep(2)
        scene.proxy.heal()
        scene.running.wait_for(lambda: scene.is_fresh("victim"), "return", seconds=RECOVERY)
        scene.running.wait_for(lambda: len(updates()) > known + 3, "events")
    now = time.time()
    assert all(now - 30 < seconds_of(event) < now + 1 for event in updates()[known:])


def seconds_of(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["captured_at"].replace("Z", "+00:00")).timestamp()


def test_a_frame_at_which_the_detector_fails_costs_that_frame_alone(scene: Scene) -> None:
    with scene.others_stay_fresh():
        failed = scene.counter("frames_failed", "flash")
        scene.running.wait_for(lambda: scene.counter("frames_failed", "flash") > failed, "white frame")
    assert [scene.counter("frames_failed", name) for name in ("steady", "other", "victim")] == [0, 0, 0]


def ids(events: list[dict[str, Any]]) -> list[str]:
    """Each once: what the broker did not acknowledge in time is sent again under the same id."""
    return list(dict.fromkeys(event["event_id"] for event in events))


def test_a_broker_that_was_away_gets_everything_in_order(scene: Scene) -> None:
    with scene.others_stay_fresh():
        scene.broker.stop()
        before = len(scene.running.events())
        time.sleep(BROKER_AWAY)
        assert len(scene.running.events()) > before + 40
        scene.broker.start()
        told = ids(scene.running.events())
        scene.running.wait_for(lambda: ids(scene.reader.events)[: len(told)] == told, "events at the broker")


def test_a_disk_that_was_full_loses_nothing(scene: Scene) -> None:
    if not scene.is_small:
        pytest.skip("needs root and the right to mount a small disk")
    ballast = scene.disk / "ballast"

    def fill() -> None:
        """To the last byte, again and again: what the broker has acknowledged leaves room in the spool."""
        with suppress(OSError), ballast.open("ab", buffering=0) as file:
            while file.write(b"\0" * 1024):
                pass

    def told_while_full() -> bool:
        fill()
        return len(ids(scene.reader.events)) > before + 40

    with scene.others_stay_fresh():
        before = len(ids(scene.reader.events))
        scene.running.wait_for(told_while_full, "events while the disk is full")
        told, kept = ids(scene.reader.events), len(scene.running.events())
        ballast.unlink()
        scene.running.wait_for(lambda: len(scene.running.events()) >= len(told), "events in the file")
    assert kept < len(told)
    assert ids(scene.running.events())[: len(told)] == told


@pytest.fixture
def lone(streams: dict[str, Path], parts: tuple[Path, Path], tmp_path: Path) -> Iterator[Lone]:
    """A site with one camera, not running yet."""
    need_mosquitto()
    mounts = {"steady": Mount(file=streams["steady"])}
    with ExitStack() as stack:
        server = stack.enter_context(RtspServer(mounts))
        broker = stack.enter_context(Broker(tmp_path / "broker"))
        reader = stack.enter_context(Reader(broker))
        cameras = {"steady": server.address("steady")}
        site = site_of(cameras, bundle=parts[0], detector=parts[1], disk=tmp_path, broker=broker)
        running = Running(tmp_path / "run", site, environment_of(cameras, broker))
        stack.callback(running.kill)
        yield Lone(running=running, server=server, broker=broker, reader=reader, site=site)
    assert credentials_in(written_in(tmp_path)) == []  # the camera's password is that of `steady`


@dataclass(frozen=True, slots=True, kw_only=True)
class Lone:
    running: Running
    server: RtspServer
    broker: Broker
    reader: Reader
    site: dict[str, Any]


def test_a_process_that_is_killed_in_the_middle_goes_on_where_it_was(lone: Lone) -> None:
    running, who = lone.running, "sighting.updated"

    def known() -> list[int]:
        return [event["global_id"] for event in running.events(who) if event["global_id"] is not None]

    running.start()
    running.wait_for(known, "identity")
    lone.broker.stop()
    before = len(running.events())
    running.wait_for(lambda: len(running.events()) > before + 5, "events while the broker is away")
    first, told = known()[0], ids(running.events())
    time.sleep(0.5)  # for the spool, which is another thread's
    running.kill()
    with running.events_path.open("ab") as file:
        file.write(b'{"schema_version":1,"event_id":"torn')  # as a power cut leaves it
    running.start()
    running.wait_for(lambda: len(ids(running.events(who))) > len(told), "events after the start")
    lone.broker.start()
    told += [event_id for event_id in ids(running.events()) if event_id not in told]
    running.wait_for(lambda: set(told) <= set(ids(lone.reader.events)), "all events at the broker")
    assert [event_id for event_id in ids(lone.reader.events) if event_id in set(told)] == told
    running.wait_for(lambda: known()[-1] == first and running.is_up("steady"), "the same person")
    assert len(running.events("identity.created")) == 1
    assert running.stop() < RECOVERY


def test_a_run_ends_in_time_while_camera_and_broker_are_silent(lone: Lone) -> None:
    lone.running.start()
    lone.running.wait_for(lambda: lone.running.events("sighting.updated"), "person")
    lone.broker.signal(signal.SIGSTOP)
    lone.server.stall()
    assert lone.running.stop() < RECOVERY
    assert len(lone.running.events("sighting.ended")) == 1
    assert lone.running.summary()["sightings"] >= 1  # which a process that has to be ended by its watchdog never tells
    lone.broker.signal(signal.SIGCONT)
    lone.server.go_on()


def test_a_state_folder_that_is_read_only_is_one_clear_line(lone: Lone, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with small_disk(state) as mounted:
        if not mounted:
            pytest.skip("needs root and the right to mount a disk")
        subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
        gallery, events = str(state / "gallery.sqlite"), str(state / "events.jsonl")
        for section in ({"storage": {"gallery": gallery}}, {"outputs": {"events": events}}):
            lone.running.configure(lone.site | section)
            lone.running.start()
            assert lone.running.process.wait(timeout=20) in (1, 2)
            (line,) = lone.running.said("err").read_text().splitlines()[-1:]
            assert str(state) in line
            assert "read" in line.lower()
            assert "Traceback" not in lone.running.said("err").read_text()
