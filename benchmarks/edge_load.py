"""How many cameras a box carries: real people over RTSP, watched from outside while `reidge run` works.

4, 8 and 16 cameras of 1280x720 at 10 frames a second, encoded before and served by another process; YOLOX-nano and
OSNet x0.25 in INT8. What is asked: the share of the frames that were handled, and how evenly over the cameras; the
seconds from a frame's capture to the moment its event can be read in the file; processor, memory and threads; the
share of the loop outside the calls of detector and encoder; how soon the first event is there.

    python benchmarks/edge_load.py                     # 3 x 60 s, on an otherwise idle machine
    python benchmarks/edge_load.py --cameras 4 --seconds 20 --result /tmp/load.json
    python benchmarks/edge_load.py --table             # write the table of the last result into the docs
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from live import FPS, HEIGHT, PARTS, SCENES, SECONDS, WIDTH, YOLOX, Observer, make_bundle, make_streams, need_shared
from publish import RESULTS, markdown_table, provenance, put_between_markers, ran_on, write_result

from reidge.edge.errors import ReidgeError
from tests.servers.rtsp import Mount, RtspServer, has_gstreamer
from tests.servers.running import AGE, Running

if TYPE_CHECKING:
    from live import Sample

RESULT = RESULTS / "edge-load.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "deployment.md"
CAMERAS = (4, 8, 16)
WARM_UP = 15.0
"""Seconds after the last camera came up; the first tracks are decided and caches are full by then."""
GOALS = {"handled": 0.95, "delay_ms_p95": 250.0, "overhead": 0.15, "first_event_seconds": 5.0, "memory_mb": 400.0}
"""For 4 cameras on 2 cores."""
IMPORT = "import time; a = time.perf_counter(); import reidge.edge.service; print(time.perf_counter() - a)"

MEMORY = """
import sys
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

import reidge.edge.service
found = [resident()]
from reidge.edge.backends import open_encoder
from reidge.edge.bundle import Bundle
from reidge.edge.detectors import open_detector
from reidge.edge.detectors.yolox import YoloxConfig
with open_detector(YoloxConfig(path=Path(sys.argv[2])), at_once=4), open_encoder(Bundle.load(sys.argv[1])):
    found.append(resident())
print(*found)
"""


def measure(cameras: int, folder: Path, *, seconds: float, warm_up: float, work: Path) -> dict[str, Any]:
    """Run so many cameras for `seconds` and tell how that went."""
    scenes = make_streams(work)
    turns = -(-cameras // SCENES)
    mounts = {
        f"cam{number:02}": Mount(file=scenes[number % SCENES], skip=number // SCENES * SECONDS * FPS // turns)
        for number in range(cameras)
    }
    with RtspServer(mounts) as server:
        site = {
            "bundle": str(make_bundle(work)),
            "cameras": [{"name": name, "source": server.address(name)} for name in mounts],
            "detector": {"kind": "yolox", "path": str(YOLOX)},
            "identity": {"min_similarity": 0.7},
            "storage": {"gallery": "gallery.sqlite"},
        }
        running = Running(folder, site)
        began = time.monotonic()
        with running, Observer(running) as observer:
            running.wait_for(running.events, "event", seconds=60)
            first_event = time.monotonic() - began
            running.wait_for(lambda: running.events("sighting.started"), "person", seconds=60)
            first_person = time.monotonic() - began
            running.wait_for(lambda: all(running.is_up(name) for name in mounts), "cameras", seconds=60)
            time.sleep(warm_up)
            before, since = running.metrics(), time.monotonic()
            time.sleep(seconds)
            after, until = running.metrics(), time.monotonic()
            running.stop()
    times = {"first_event_seconds": first_event, "first_person_seconds": first_person}
    counted = count(before, after, list(mounts), until - since)
    return {
        "cameras": cameras,
        "seconds": until - since,
        **times,
        **counted,
        **watched(observer, since, until),
        **stages(before, after, until - since),
        "ages_s": {name: after[AGE][name] for name in mounts},
        "summary": running.summary(),
    }


def count(
    before: dict[str, dict[str, float]], after: dict[str, dict[str, float]], names: list[str], seconds: float
) -> dict[str, Any]:
    """Frames between two readings, by camera and as shares of what the cameras sent."""

    def grown(counter: str) -> dict[str, float]:
        old, new = before.get(counter, {}), after.get(counter, {})
        return {name: new.get(name, 0.0) - old.get(name, 0.0) for name in names}

    handled, decoded, sent = grown("reidge_frames_handled_total"), grown("reidge_frames_decoded_total"), FPS * seconds
    return {
        "handled": sum(handled.values()) / (sent * len(names)),
        "decoded": sum(decoded.values()) / (sent * len(names)),
        "fps_least": min(handled.values()) / seconds,
        "fps_most": max(handled.values()) / seconds,
        "frames": handled,
    }


def stages(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]], seconds: float) -> dict[str, Any]:
    """Mean milliseconds a frame spent in each stage."""
    total, number = "reidge_stage_seconds_sum", "reidge_stage_seconds_count"
    found = {}
    for stage in sorted({key.split(",")[1] for key in after.get(total, {})}):
        keys = [key for key in after[total] if key.split(",")[1] == stage]
        spent = sum(after[total][key] - before[total].get(key, 0.0) for key in keys)
        frames = sum(after[number][key] - before[number].get(key, 0.0) for key in keys)
        found[stage] = 1e3 * spent / max(frames, 1.0)
    return {"stage_ms": found}


def watched(observer: Observer, since: float, until: float) -> dict[str, Any]:
    """What could be seen from outside between two moments."""
    samples: list[Sample] = [sample for sample in observer.samples if since <= sample.at <= until]
    delays = [1e3 * delay for at, _, delay in observer.delays if since <= at <= until]
    first, last = samples[0], samples[-1]
    return {
        "events": len(delays),
        "delay_ms_p50": float(np.quantile(delays, 0.5)) if delays else None,
        "delay_ms_p95": float(np.quantile(delays, 0.95)) if delays else None,
        "delay_ms_max": max(delays, default=None),
        "cores": (last.cpu - first.cpu) / (last.at - first.at),
        "cores_by_part": {
            part: (last.cpu_by_part.get(part, 0.0) - first.cpu_by_part.get(part, 0.0)) / (last.at - first.at)
            for part in PARTS
        },
        "memory_mb": max(sample.memory_mb for sample in samples),
        "threads": last.threads,
        "handles": last.handles,
    }


def import_seconds() -> float:
    """Seconds to import what `reidge run` needs of the edge, the best of three processes."""
    commands = [[sys.executable, "-c", IMPORT]] * 3
    return min(float(subprocess.run(c, capture_output=True, text=True, check=True).stdout) for c in commands)


def memory_by_part(bundle: Path) -> dict[str, float]:
    """Megabytes resident after the imports, and those that opening both networks adds; the rest is of the cameras."""
    command = [sys.executable, "-c", MEMORY, str(bundle), str(YOLOX)]
    imported, opened = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    return {"imports": imported, "networks": opened - imported}


def run_all(cameras: list[int], work: Path, *, seconds: float, warm_up: float = WARM_UP) -> dict[str, Any]:
    """Measure one number of cameras after the other."""
    if not has_gstreamer():
        raise ReidgeError("GStreamer's RTSP server is missing. Install what .ci/run installs.")
    need_shared()
    work.mkdir(parents=True, exist_ok=True)
    result = provenance() | {"goals": GOALS, "import_seconds": import_seconds(), "runs": []}
    result["memory_mb_by_part"] = memory_by_part(make_bundle(work))
    for number in cameras:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(number, Path(folder), seconds=seconds, warm_up=warm_up, work=work)
        print(json.dumps({key: value for key, value in found.items() if key != "summary"}), file=sys.stderr)
        result["runs"].append(found)
    return result


def describe(result: dict[str, Any]) -> str:
    """The table, and a line about what it was measured on."""
    header = ["cameras", "frames handled", "fps, least and most of a camera", "delay, ms, p50 (p95)"]
    header += ["cores", "memory, MB", "threads", "loop outside networks", "first event, s"]
    rows = [
        [
            str(run["cameras"]),
            f"{run['handled']:.1%}",
            f"{run['fps_least']:.1f}, {run['fps_most']:.1f}",
            f"{run['delay_ms_p50']:.0f} ({run['delay_ms_p95']:.0f})",
            f"{run['cores']:.2f}",
            f"{run['memory_mb']:.0f}",
            str(run["threads"]),
            f"{run['summary']['overhead']:.1%}",
            f"{run['first_event_seconds']:.1f}",
        ]
        for run in result["runs"]
    ]
    backend = result["runs"][0]["summary"]
    names = list(result["runs"][0]["stage_ms"])
    stage_rows = [[str(r["cameras"]), *(f"{r['stage_ms'][n]:.1f}" for n in names)] for r in result["runs"]]
    part_rows = [[str(r["cameras"]), *(f"{r['cores_by_part'][n]:.2f}" for n in PARTS)] for r in result["runs"]]
    memory = result["memory_mb_by_part"]
    return (
        f"{WIDTH}x{HEIGHT} at {FPS} fps, H.264 over RTSP; YOLOX-nano and OSNet x0.25, {backend['backend']}, "
        f"{backend['precision']}; {result['runs'][0]['seconds']:.0f} s each, with the RTSP server on the same "
        f"cores; {ran_on(result)}\n\n{markdown_table(header, rows)}\n\n"
        "Delay is from the capture of a frame to the moment its event can be read in the file. "
        f"Mean milliseconds of a frame by stage; a frame waits until all frames of its moment are through:\n\n"
        f"{markdown_table(['cameras', *names], stage_rows)}\n\n"
        "Cores by whose threads: `loop` is the main thread with its part of the networks, `networks` the runtimes' own "
        f"threads:\n\n{markdown_table(['cameras', *PARTS], part_rows)}\n\n"
        f"Of the memory {memory['imports']:.0f} MB are there after the imports and {memory['networks']:.0f} MB more "
        "with both networks open; the rest comes with cameras and loop. "
        f"Importing the edge takes {result['import_seconds']:.2f} s."
    )


def main() -> None:
    """Measure, or write the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, nargs="+", default=list(CAMERAS), help="how many, one run each")
    parser.add_argument("--seconds", type=float, default=60.0, help="measured, of each run")
    parser.add_argument("--work", type=Path, default=Path("out/edge-load"), help="folder for streams and the bundle")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="write the table of the last result into the docs")
    args = parser.parse_args()
    if args.table:
        put_between_markers(DOCUMENT, "edge-load", describe(json.loads(args.result.read_text())))
        return
    result = run_all(args.cameras, args.work.resolve(), seconds=args.seconds)
    write_result(args.result, result)
    print(describe(result))


if __name__ == "__main__":
    main()
