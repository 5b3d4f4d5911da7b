"""Half an hour of random faults: what grows, what is lost, how soon a camera is back.

Four cameras, each behind a network of its own, and a broker. One fault after another, chosen by a seed: the network of
a camera stalls, refuses, is silent, cuts, corrupts, shifts its clock; a camera changes its size; the server of all
cameras stops; the broker stops. Meanwhile memory, threads and open files of `reidge run` are looked at once a second.
At the end the events file, what the broker was told and the gallery are held against each other.

    python benchmarks/soak.py                                    # real people, 30 minutes
    python benchmarks/soak.py --small --seconds 180 --settle 60 --result /tmp/soak.json
    python benchmarks/soak.py --table                            # write the figures of the last result into the docs
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from live import YOLOX, Observer, make_bundle, make_other_size, make_painted_streams, make_streams, need_shared
from publish import RESULTS, markdown_table, provenance, put_between_markers, ran_on, write_result

from reidge.edge.errors import ReidgeError
from tests.conftest import write_tiny_bundle
from tests.servers.broker import Broker, Reader, has_mosquitto
from tests.servers.fragile import write_fragile_detector
from tests.servers.proxy import RtspProxy
from tests.servers.rtsp import Mount, RtspServer, has_gstreamer
from tests.servers.running import Ages, Running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from live import Sample

RESULT = RESULTS / "soak.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "operations.md"
CAMERAS = ("cam0", "cam1", "cam2", "cam3")
KINDS = ("stall", "refuse", "silent", "cut", "corrupt", "jump", "resize", "server", "broker")
AWAY = ("stall", "refuse", "silent", "server")
"""Kinds that take frames away until they are healed; after the others there is as a rule nothing to return from."""
LASTS = (1.0, 12.0)
"""Seconds of a fault, least and most."""
BETWEEN = (2.0, 8.0)
"""Seconds between the end of one fault and the next."""
FRESH = 1.0
"""Frame age in seconds up to which a camera is there."""
GOALS = {"growth_mb": 20.0, "recovery_s_most": 5.0, "age_s_p95": 1.0, "events_lost": 0, "identities_lost": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong, where and when."""

    kind: str
    camid: str | None
    """None for what hits all cameras, or none of them."""
    at: float
    """Seconds after the beginning."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """How a fault went."""

    fault: Fault
    began: float
    """`time.monotonic()`."""
    healed: float
    recovery_s: float
    """Seconds from then until all cameras gave frames."""


def plan(seed: int, seconds: float) -> list[Fault]:
    """Choose faults one after another, every kind as often as any other; a tenth of the time at both ends is calm."""
    chance = random.Random(seed)
    faults: list[Fault] = []
    at, kinds = seconds / 10, list[str]()
    while True:
        kinds = kinds or chance.sample(KINDS, len(KINDS))
        lasts = chance.uniform(*LASTS)
        if at + lasts > 0.9 * seconds:
            return faults
        kind = kinds.pop()
        camid = None if kind in ("server", "broker") else CAMERAS[0] if kind == "resize" else chance.choice(CAMERAS)
        faults.append(Fault(kind=kind, camid=camid, at=at, seconds=lasts))
        at += lasts + chance.uniform(*BETWEEN)


class Site:
    """Cameras, their networks, a broker and `reidge run`; use it in a `with`."""

    def __init__(self, folder: Path, *, work: Path, small: bool) -> None:
        self.folder = folder
        streams, self._other = make_painted_streams(work) if small else (make_streams(work), make_other_size(work))
        self._first = streams[0]
        self.server = RtspServer({name: Mount(file=file) for name, file in zip(CAMERAS, streams, strict=True)})
        self.broker = Broker(folder / "broker")
        self._small, self._work = small, work
        self._stack = ExitStack()

    def __enter__(self) -> Site:
        with ExitStack() as stack:
            stack.enter_context(self.server)
            self.proxies = {name: stack.enter_context(RtspProxy(self.server.port)) for name in CAMERAS}
            stack.enter_context(self.broker)
            self.reader = stack.enter_context(Reader(self.broker))
            self.running = stack.enter_context(Running(self.folder, self._settings()))
            self.ages = stack.enter_context(Ages(self.running, every=0.5))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _settings(self) -> dict[str, Any]:
        detector: dict[str, Any] = {"kind": "yolox", "path": str(YOLOX)}
        encoder: dict[str, Any] = {}
        if self._small:
            path = write_fragile_detector(self.folder / "one.onnx")
            detector = {"kind": "boxes", "path": str(path), "boxes": "found", "threads": 1}
            encoder = {"backend": "onnxruntime", "threads": 1}
        bundle = write_tiny_bundle(self.folder / "bundle") if self._small else make_bundle(self._work)
        broker = {"host": "127.0.0.1", "port": self.broker.port, "user": self.broker.user}
        return {
            "bundle": str(bundle),
            "cameras": [
                {"name": name, "source": self.server.address(name, port=proxy.port)}
                for name, proxy in self.proxies.items()
            ],
            "detector": detector,
            "encoder": encoder,
            "identity": {"min_similarity": 0.7},
            "storage": {"gallery": "gallery.sqlite"},
            "outputs": {"mqtt": broker | {"password": self.broker.password, "site": "soak"}},
        }

    def inflict(self, fault: Fault) -> None:
        """Begin a fault."""
        if fault.camid is None:
            self.server.stall() if fault.kind == "server" else self.broker.stop()
            return
        proxy = self.proxies[fault.camid]
        match fault.kind:
            case "stall":
                proxy.stall()
            case "refuse":
                proxy.refuse()
            case "silent":
                proxy.silence()
            case "cut":
                proxy.cut()
            case "corrupt":
                proxy.corrupt_share = 0.3
            case "jump":
                proxy.jump_seconds = 3600.0
            case "resize":
                self.server.play(fault.camid, self._other)

    def heal(self, fault: Fault) -> None:
        """End a fault."""
        if fault.kind == "server":
            self.server.go_on()
        elif fault.kind == "broker":
            self.broker.start()
        elif fault.kind == "resize":
            self.server.play(CAMERAS[0], self._first)
        elif fault.camid is not None:
            self.proxies[fault.camid].heal()

    def all_fresh(self) -> bool:
        """Whether every camera gives frames."""
        ages = self.running.metrics().get("reidge_frame_age_seconds", {})
        return all(ages.get(name, FRESH) < FRESH for name in CAMERAS)


def suffer(site: Site, faults: Sequence[Fault], seconds: float) -> list[Outage]:
    """Inflict the faults at their times, and stay until `seconds` are over."""
    began, outages = time.monotonic(), []
    for fault in faults:
        time.sleep(max(0.0, began + fault.at - time.monotonic()))
        fails = time.monotonic()
        site.inflict(fault)
        time.sleep(fault.seconds)
        site.heal(fault)
        healed = time.monotonic()
        recovery = site.running.wait_for(site.all_fresh, f"return after {fault}", seconds=90)
        outages.append(Outage(fault=fault, began=fails, healed=healed, recovery_s=recovery))
        print(f"{fails - began:6.0f} s  {fault.kind:8}{fault.camid or '':6}back in {recovery:.1f} s", file=sys.stderr)
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    return outages


def healthy_ages(site: Site, outages: Sequence[Outage]) -> list[float]:
    """Frame ages of cameras that nothing was happening to."""

    def hit(camid: str, at: float) -> bool:
        return any(
            outage.began <= at <= outage.healed + outage.recovery_s
            for outage in outages
            if outage.fault.camid == camid or outage.fault.kind == "server"
        )

    samples = [(camid, at, age) for camid, found in site.ages.samples.items() for at, age in found]
    return [age for camid, at, age in samples if not hit(camid, at)]


def grown(samples: Sequence[Sample], *, settle: float) -> dict[str, Any]:
    """What the process holds, every 10 s; medians of the first and last minute (or quarter) after it has settled."""
    curve = [round(sample.memory_mb, 1) for sample in samples[::10]]
    samples = [sample for sample in samples if sample.at >= samples[0].at + settle]
    window = min(60, max(1, len(samples) // 4))

    def median(name: str, part: Sequence[Sample]) -> float:
        return float(np.median([getattr(sample, name) for sample in part]))

    first, last = samples[:window], samples[-window:]
    return {
        "memory_mb": median("memory_mb", last),
        "growth_mb": median("memory_mb", last) - median("memory_mb", first),
        "threads": [median("threads", first), median("threads", last)],
        "handles": [median("handles", first), median("handles", last)],
        "memory_mb_curve": curve,
        "cores": (samples[-1].cpu - samples[0].cpu) / (samples[-1].at - samples[0].at),
    }


def kept(site: Site) -> dict[str, Any]:
    """Hold the file, the broker and the gallery against each other; the run has ended."""
    events = site.running.events()
    in_file = [event["event_id"] for event in events]
    wanted = set(in_file)
    deadline = time.monotonic() + 10
    while len(wanted - {event["event_id"] for event in site.reader.events}) and time.monotonic() < deadline:
        time.sleep(0.1)
    at_broker = list(dict.fromkeys(event["event_id"] for event in site.reader.events))
    with sqlite3.connect(site.folder / "gallery.sqlite") as gallery:
        known = {row[0] for row in gallery.execute("SELECT global_id FROM identities")}
    merged = {event["merged_from"]: event["global_id"] for event in events if event["event"] == "identity.merged"}
    told = [event for event in events if event["event"] == "sighting.ended" and event["global_id"] is not None]
    return {
        "events": len(in_file),
        "events_lost": site.running.summary()["events"] - len(wanted) + len(wanted - set(at_broker)),
        "in_order": [event_id for event_id in at_broker if event_id in wanted] == in_file,
        "identities": len(known),
        "identities_lost": len({_final(event["global_id"], merged) for event in told} - known),
        "identities_by_camera": {
            name: sorted({_final(event["global_id"], merged) for event in told if event["camid"] == name})
            for name in CAMERAS
        },
    }


def _final(global_id: int, merged: dict[int, int]) -> int:
    while global_id in merged:
        global_id = merged[global_id]
    return global_id


def run(*, seconds: float, settle: float, seed: int, small: bool, work: Path) -> dict[str, Any]:
    """Let a site suffer for `seconds` after all its cameras are up, and tell how it was."""
    if not has_gstreamer() or not has_mosquitto():
        raise ReidgeError("GStreamer's RTSP server or mosquitto is missing. Install what .ci/run installs.")
    if not small:
        need_shared()
    work.mkdir(parents=True, exist_ok=True)
    faults = plan(seed, seconds)
    with tempfile.TemporaryDirectory() as folder, Site(Path(folder), work=work, small=small) as site:
        site.running.wait_for(site.all_fresh, "frames of all cameras", seconds=120)
        with Observer(site.running) as observer:
            outages = suffer(site, faults, seconds)
        ended_in = site.running.stop()
        return provenance() | {
            "goals": GOALS,
            "small": small,
            "seed": seed,
            "seconds": seconds,
            "settle": settle,
            "faults": len(faults),
            "recovery_s_most": max(outage.recovery_s for outage in outages if outage.fault.kind != "broker"),
            "age_s_p95": float(np.quantile(healthy_ages(site, outages), 0.95)),
            **grown(observer.samples, settle=settle),
            **kept(site),
            "ended_in_s": ended_in,
            "outages": [asdict(outage.fault) | {"recovery_s": outage.recovery_s} for outage in outages],
            "summary": site.running.summary(),
        }


def handled_share(result: dict[str, Any]) -> float:
    """Frames that were looked at, of those that cameras offered: a reader may go on beside a loop that does not."""
    summary = result["summary"]
    return float(summary["frames"] / max(summary["frames"] + summary["dropped"], 1))


def describe(result: dict[str, Any]) -> str:
    """The figures beside what was wanted."""
    returns = [outage["recovery_s"] for outage in result["outages"] if outage["kind"] in AWAY] or [0.0]
    (threads, threads_last), (handles, handles_last) = result["threads"], result["handles"]
    rows = [
        ["memory, MB", f"{result['memory_mb']:.0f}", ""],
        [f"its growth after {result['settle']:.0f} s, MB", f"{result['growth_mb']:+.1f}", "< 20"],
        ["threads, first and last minute", f"{threads:.0f}, {threads_last:.0f}", "the same"],
        ["open files and sockets, first and last minute", f"{handles:.0f}, {handles_last:.0f}", "the same"],
        ["events, of which lost", f"{result['events']}, {result['events_lost']}", "0"],
        ["in order at the broker", "yes" if result["in_order"] else "no", "yes"],
        ["identities, of which lost", f"{result['identities']}, {result['identities_lost']}", "0"],
        ["frame age of healthy cameras, p95, s", f"{result['age_s_p95']:.2f}", "< 1"],
        ["frames handled, of those offered", f"{100 * handled_share(result):.0f} %", "> 90 %"],
        ["from arrival to event, p95, s", f"{result['summary']['latency_ms_p95'] / 1000:.2f}", "< 1"],
        [
            "return after an outage, median and most, s",
            f"{np.median(returns):.1f}, {result['recovery_s_most']:.1f}",
            "< 5",
        ],
    ]
    return (
        f"{result['faults']} faults in {result['seconds'] / 60:.0f} minutes, seed {result['seed']}, 4 cameras; "
        f"{ran_on(result)}\n\n{markdown_table(['', 'found', 'wanted'], rows)}"
    )


def main() -> None:
    """Measure, or write the figures of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--settle", type=float, default=300.0, help="seconds after which nothing may grow any more")
    parser.add_argument("--seed", type=int, default=0, help="chooses the faults")
    parser.add_argument("--small", action="store_true", help="painted people and tiny networks")
    parser.add_argument("--work", type=Path, default=Path("out/edge-load"), help="folder for streams and the bundle")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="write the figures of the last result into the docs")
    args = parser.parse_args()
    if args.table:
        put_between_markers(DOCUMENT, "soak", describe(json.loads(args.result.read_text())))
        return
    result = run(seconds=args.seconds, settle=args.settle, seed=args.seed, small=args.small, work=args.work)
    write_result(args.result, result)
    print(describe(result))


if __name__ == "__main__":
    main()
