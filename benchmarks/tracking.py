"""Ours and three public trackers on the same detections of scenes that are hard to track in.

Each scene (benchmarks/tracking_scenes.py) is seen at 10 and at 5 frames a second. The trackers of the package
`trackers` run with their defaults and with settings that were searched for on other scenes: one setting after the
other, over the ranges their package publishes for it, twice round. Ours runs with the defaults of the edge, which were
chosen on those same other scenes. HOTA and IDF1 are trackeval's; time is that of the tracker alone, in the same run.

    python benchmarks/tracking.py --bundle out/demo/bundle      # films what is missing, searches, measures
    python benchmarks/tracking.py --table                       # write the tables of the last result into the docs
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from publish import RESULTS, markdown_table, provenance, put_between_markers, ran_on, write_result
from tracking_contest import PEERS, idf1, ours, peer, run, score
from tracking_scenes import KINDS, RATES, film, recall

from reidge.demo.score import MIN_VISIBILITY
from reidge.edge.backends import open_encoder
from reidge.edge.bundle import Bundle
from reidge.edge.tracker import TrackerConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tracking_contest import Contestant
    from tracking_scenes import Shot

    Scenes = Mapping[str, Sequence[Shot]]

RESULT = RESULTS / "tracking.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "tracking.md"
SEARCHED_SEEDS, REPORTED_SEEDS = (100, 101), (0, 1)
SECONDS = 45.0
ROUNDS = 2
RANGES: dict[str, dict[str, tuple[float, ...]]] = {
    "ByteTrack": {
        "high_conf_det_threshold": (0.4, 0.5, 0.6),
        "track_activation_threshold": (0.4, 0.5, 0.6, 0.7),
        "minimum_iou_threshold": (0.05, 0.1, 0.2, 0.3),
        "lost_track_buffer": (20, 30, 45, 60),
        "minimum_consecutive_frames": (2, 3),
    },
    "OC-SORT": {
        "high_conf_det_threshold": (0.4, 0.5, 0.6),
        "minimum_iou_threshold": (0.1, 0.15, 0.2, 0.3),
        "direction_consistency_weight": (0.0, 0.1, 0.2, 0.4),
        "delta_t": (1, 2, 3),
        "lost_track_buffer": (20, 30, 45, 60),
        "minimum_consecutive_frames": (2, 3),
    },
    "BoT-SORT": {
        "high_conf_det_threshold": (0.4, 0.5, 0.6),
        "track_activation_threshold": (0.4, 0.5, 0.6, 0.7),
        "minimum_iou_threshold_first_assoc": (0.05, 0.1, 0.2, 0.3),
        "minimum_iou_threshold_second_assoc": (0.2, 0.35, 0.5),
        "minimum_iou_threshold_unconfirmed_assoc": (0.15, 0.3),
        "lost_track_buffer": (20, 30, 45, 60),
        "minimum_consecutive_frames": (2, 3),
    },
}
"""Values of each setting, around the default and within the range that the package itself searches."""


WITH_EMBEDDINGS = TrackerConfig(min_iou=0.0, overlap_weight=4.0)
"""Where looks have a say, boxes need not; chosen on the scenes of the search too."""
VARIANTS: dict[str, Callable[[int], Contestant]] = {
    "sure detections first, then unsure ones": ours(TrackerConfig(unsure_cost=TrackerConfig().max_misfit)),
    "sure detections alone": ours(TrackerConfig(low_score=TrackerConfig().high_score)),
    "nobody is looked for by place alone": ours(TrackerConfig(max_shift=0.0)),
    "no overlap in the cost": ours(TrackerConfig(min_iou=0.0, overlap_weight=0.0)),
    "all boxes equally precise": ours(TrackerConfig(unsure_weight=0.0)),
    "not told how the camera moves": ours(TrackerConfig(), pictures=False),
}
"""Ours with one part of it taken away."""


def ensure(folder: Path, seeds: Sequence[int], *, seconds: float, bundle: Path | None) -> None:
    """Film the scenes that are not there yet."""
    missing = [(kind, seed) for seed in seeds for kind in KINDS if not _path(folder, kind.name, seed).exists()]
    opened = open_encoder(Bundle.load(bundle)) if bundle is not None and missing else nullcontext()
    with opened as encoder:
        for kind, seed in missing:
            film(kind, seed=seed, seconds=seconds, encoder=encoder, path=_path(folder, kind.name, seed))
            print(f"filmed {kind.name}, seed {seed}", file=sys.stderr, flush=True)


def scenes_of(folder: Path, seeds: Sequence[int]) -> dict[str, list[Shot]]:
    """All scenes at both rates by name: `kind-seed-rate`."""
    return {
        f"{kind.name}-{seed}-{rate}": recall(_path(folder, kind.name, seed), rate)
        for seed in seeds
        for kind in KINDS
        for rate in RATES
    }


def search(name: str, folder: Path, seeds: Sequence[int], rounds: int = ROUNDS) -> dict[str, Any]:
    """Settings of a peer with which its IDF1 on these scenes is best, found one setting at a time."""
    cv2.setNumThreads(1)
    scenes = scenes_of(folder, seeds)
    settings: dict[str, Any] = {}
    best = first = judge(peer(name, settings), scenes)
    for _ in range(rounds):
        before = settings
        for key, values in RANGES[name].items():
            for value in values:
                tried = {**settings, key: value}
                found = judge(peer(name, tried), scenes)
                if found > best:
                    best, settings = found, tried
        if settings == before:
            break
    print(f"{name}: IDF1 {first:.1f} by default, {best:.1f} with {settings}", file=sys.stderr, flush=True)
    return {"settings": settings, "idf1_default": first, "idf1": best}


def judge(begin: Callable[[int], Contestant], scenes: Scenes) -> float:
    """IDF1 over scenes."""
    return idf1({name: run(begin(_rate(name)), shots)[0] for name, shots in scenes.items()})


def measure(contestants: Mapping[str, Callable[[int], Contestant]], scenes: Scenes) -> list[dict[str, Any]]:
    """Let everybody track everything, scene by scene side by side, so that all share the machine's moods."""
    tables: dict[str, dict[str, Any]] = {name: {} for name in contestants}
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in contestants}
    for scene, shots in scenes.items():
        for name, begin in contestants.items():
            tables[name][scene], seconds[name][scene] = run(begin(_rate(scene)), shots)
    return [
        {"name": name, **score(tables[name]), **by_scene(tables[name]), **times(seconds[name])} for name in contestants
    ]


def by_scene(tables: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """IDF1 for each kind of scene and rate."""
    groups = {(_kind(name), _rate(name)) for name in tables}
    return {
        "idf1_by_scene": {
            f"{kind} {rate}": idf1({n: t for n, t in tables.items() if (_kind(n), _rate(n)) == (kind, rate)})
            for kind, rate in sorted(groups)
        }
    }


def times(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Milliseconds of a frame: mean before fixed cameras, and before those that sway."""
    fixed = [value for name, values in seconds.items() if _kind(name) != "sway" for value in values]
    sway = [value for name, values in seconds.items() if _kind(name) == "sway" for value in values]
    return {"ms": 1e3 * float(np.mean(fixed)), "ms_sway": 1e3 * float(np.mean(sway))}


def search_all(folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Search for the settings of all peers at once; nothing is timed here."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        jobs = {name: pool.submit(search, name, folder, seeds) for name in PEERS}
        return {name: job.result() for name, job in jobs.items()}


def report(folder: Path, seeds: Sequence[int], found: Mapping[str, Any]) -> dict[str, Any]:
    """Measure everybody, the peers with their defaults and with what was found for them."""
    cv2.setNumThreads(1)
    scenes = scenes_of(folder, seeds)
    shots = [shot for name, shots in scenes.items() if _rate(name) == max(RATES) for shot in shots]
    contestants = {name: peer(name, {}) for name in PEERS}
    contestants |= {f"{name}, searched": peer(name, found[name]["settings"]) for name in PEERS}
    contestants["ours"] = ours(TrackerConfig())
    if all(shot.embeddings_ND is not None for shot in shots):
        contestants["ours, with embeddings"] = ours(WITH_EMBEDDINGS, embeddings=True)
    result = provenance() | {"frames": sum(len(shots) for shots in scenes.values()), "reported_seeds": list(seeds)}
    result["versions"] |= {name: version(name) for name in ("trackers", "trackeval", "lap")}
    counted = [sum(truth.visibility >= MIN_VISIBILITY for truth in shot.truths) for shot in shots]
    result["people_in_view"] = float(np.mean(counted))
    result |= {"searched": dict(found), "contestants": measure(contestants, scenes)}
    return result | {"variants": {name: judge(begin, scenes) for name, begin in VARIANTS.items()}}


def describe(result: dict[str, Any]) -> str:
    """The tables, and a line about what they were measured on."""
    rows = [
        [
            entry["name"],
            *(f"{entry[key]:.1f}" for key in ("idf1", "hota", "assa", "mota")),
            str(entry["switches"]),
            f"{entry['ms']:.2f}",
            f"{entry['ms_sway']:.2f}",
        ]
        for entry in result["contestants"]
    ]
    header = ["tracker", "IDF1", "HOTA", "AssA", "MOTA", "switches", "ms a frame", "ms, swaying camera"]
    groups = [f"{kind.name} {rate}" for kind in KINDS for rate in RATES]
    groups = [group for group in groups if group in result["contestants"][0]["idf1_by_scene"]]
    by_kind = [[e["name"], *(f"{e['idf1_by_scene'][group]:.1f}" for group in groups)] for e in result["contestants"]]
    found = [
        [name, f"{entry['idf1_default']:.1f}", f"{entry['idf1']:.1f}", _settings(entry["settings"])]
        for name, entry in result["searched"].items()
    ]
    whole = next(entry["idf1"] for entry in result["contestants"] if entry["name"] == "ours")
    variants = [["nothing", f"{whole:.1f}"], *([name, f"{value:.1f}"] for name, value in result["variants"].items())]
    return (
        f"{result['frames']} frames, {result['people_in_view']:.1f} people in view on average; trackers "
        f"{result['versions']['trackers']}, trackeval {result['versions']['trackeval']}; {ran_on(result)}\n\n"
        f"{markdown_table(header, rows)}\n\nIDF1 by scene and frames a second:\n\n"
        f"{markdown_table(['tracker', *groups], by_kind)}\n\n"
        "What the search found on the other scenes, and the IDF1 there:\n\n"
        f"{markdown_table(['tracker', 'by default', 'searched', 'settings'], found)}\n\n"
        f"Ours with one part of it taken away:\n\n{markdown_table(['what', 'IDF1'], variants)}"
    )


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "the defaults"


def _path(folder: Path, kind: str, seed: int) -> Path:
    return folder / f"{kind}-{seed}.npz"


def _kind(name: str) -> str:
    return name.split("-")[0]


def _rate(name: str) -> int:
    return int(name.rsplit("-", 1)[1])


def main() -> None:
    """Measure, or write the tables of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="encoder of the embeddings; without one ours runs on boxes alone")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of a scene")
    parser.add_argument("--work", type=Path, default=Path("out/tracking"), help="folder for the filmed scenes")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(REPORTED_SEEDS), help="of the reported scenes")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="write the tables of the last result into the docs")
    args = parser.parse_args()
    if args.table:
        put_between_markers(DOCUMENT, "tracking", describe(json.loads(args.result.read_text())))
        return
    ensure(args.work, [*SEARCHED_SEEDS, *args.seeds], seconds=args.seconds, bundle=args.bundle)
    result = report(args.work, args.seeds, search_all(args.work, SEARCHED_SEEDS))
    write_result(args.result, result)
    print(describe(result))


if __name__ == "__main__":
    main()
