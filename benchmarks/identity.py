"""How well people are recognised across cameras and time, on three simulated sites of growing difficulty.

An encoder is trained without labels on a day at one more site; every site calibrates its own threshold, without labels
too, on a day before with other people. Then two halves of a live day: residents come in both, strangers in the second
only. What tracker, quality gate and encoder give is recorded once; the decisions are made again from that, so that
thresholds, the oracle and the plain baseline see the very same tracks.

    python benchmarks/identity.py out/identity                    # film, train, record and score; --jobs processes
    python benchmarks/identity.py out/identity --seeds 50 --sites small middle         # a seed to tune on
    python benchmarks/identity.py out/identity --only score       # again from the recordings
    python benchmarks/identity.py out/identity --only score --sites large --sweep 0.06 0.12 0.18    # fewer thresholds
    python benchmarks/identity.py --table                         # write the tables of the last result into the docs
"""

# T = tracks, D = embedding

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from publish import RESULTS, markdown_table, provenance, put_between_markers, ran_on, write_result
from recorded import Recording, join, record, replay, replay_site
from sites import SITES, TRAINING, Film, FilmDetector, SiteSpec

from reidge.calibration.harvest import HarvestConfig, harvest_frames
from reidge.calibration.threshold import FALSE_MATCH_RATE
from reidge.edge.backends import open_encoder
from reidge.edge.bundle import Bundle
from reidge.edge.camera import CameraConfig
from reidge.edge.crops import INDEX_NAME
from reidge.edge.detectors import open_detector
from reidge.edge.detectors.motion import MotionConfig
from reidge.edge.errors import InputError
from reidge.edge.folder import whole_folder
from reidge.edge.service import open_gallery
from reidge.edge.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from recorded import TrackKey

    from reidge.edge.bundle import ThresholdReport
    from reidge.edge.detectors import Detector
    from reidge.train.recipe import Recipe

Item = TypeVar("Item")
Answer = TypeVar("Answer")

RESULT = RESULTS / "identity.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "identity.md"
CROPS_EACH = 8
"""Of a tracklet of the day before."""
RECIPE = ("quick", ("loop.epochs=12", "loop.iters=60"))
STAGES = ("train", "record", "score")
SEEDS = (7, 8, 9)
"""On which nothing was tuned."""
SWEEP = (-0.20, -0.12, -0.06, -0.03, 0.0, 0.03, 0.06, 0.12)
"""Added to the calibrated threshold to find the one that the truth would choose."""
GREEDY = np.round(np.arange(0.3, 0.96, 0.025), 3)
"""Thresholds tried for the plain baseline."""


def harvest_day(spec: SiteSpec, folder: Path, *, jobs: int, motion: bool = False) -> None:
    """Film the day before with every camera and keep crops of it; nothing where that was done."""
    if folder.exists():
        return
    parts = folder.with_name(f"{folder.name}-parts")
    _side_by_side(partial(_harvest_camera, spec, parts, motion), range(spec.cameras), jobs)
    with whole_folder(folder) as whole:
        lines: list[str] = []
        for camera in range(spec.cameras):
            part = parts / str(camera)
            header, *rows = (part / INDEX_NAME).read_text(encoding="utf-8").splitlines(keepends=True)
            lines += rows if lines else [header, *rows]
            for inner in (path for path in part.iterdir() if path.is_dir()):
                inner.rename(whole / inner.name)
        (whole / INDEX_NAME).write_text("".join(lines), encoding="utf-8")


def _harvest_camera(spec: SiteSpec, parts: Path, motion: bool, camera: int) -> None:
    target = parts / str(camera)
    if target.exists():
        return
    parts.mkdir(parents=True, exist_ok=True)
    film = Film(spec, camera, "before")
    config = HarvestConfig(crops_per_tracklet=CROPS_EACH)
    with _open_detector(spec, film, motion) as detector:
        harvest_frames({film.camid: film.frames()}, target, config, detector=detector)


def _open_detector(spec: SiteSpec, film: Film, motion: bool) -> Detector:
    return open_detector(MotionConfig()) if motion else FilmDetector([film], seed=spec.seed)


def train_encoder(work: Path, *, jobs: int, spec: SiteSpec = TRAINING, recipe: Recipe | None = None) -> Path:
    """Train the encoder of all sites without labels; nothing where that was done."""
    from reidge.train.loop import train
    from reidge.train.recipe import load_recipe

    run = work / "encoder"
    if not (run / "encoder.safetensors").exists():
        harvest_day(spec, work / f"crops-{spec.name}", jobs=jobs)
        train(recipe or load_recipe(RECIPE[0], list(RECIPE[1])), work / f"crops-{spec.name}", run)
    return run


def export_site(spec: SiteSpec, work: Path, run: Path, name: str, *, jobs: int, motion: bool = False) -> Path:
    """Export the encoder for a site, with a threshold from the day before; nothing where that was done."""
    from reidge.export.bundle import export_bundle
    from reidge.train.checkpoint import load_encoder

    crops, bundle = work / f"crops-{name}", work / f"bundle-{name}"
    if not bundle.exists():
        harvest_day(spec, crops, jobs=jobs, motion=motion)
        export_bundle(
            load_encoder(run), crops, bundle, source=run.name, false_match_rate=FALSE_MATCH_RATE, separate_views=True
        )
    return bundle


def record_site(spec: SiteSpec, bundle: Path, path: Path, *, jobs: int, motion: bool = False) -> None:
    """Film the live day with every camera, track and embed; nothing where that was done."""
    if path.exists():
        return
    parts = path.with_suffix("")
    parts.mkdir(parents=True, exist_ok=True)
    _side_by_side(partial(_record_camera, spec, bundle, parts, motion), range(spec.cameras), jobs)
    join([Recording.load(parts / f"{camera}.npz") for camera in range(spec.cameras)]).save(path)


def _record_camera(spec: SiteSpec, bundle_folder: Path, parts: Path, motion: bool, camera: int) -> None:
    target = parts / f"{camera}.npz"
    if target.exists():
        return
    film, bundle = Film(spec, camera), Bundle.load(bundle_folder)
    site = Site(bundle=bundle_folder, cameras=(CameraConfig(name=film.camid, source=f"{film.camid}.mp4"),))
    with (
        _open_detector(spec, film, motion) as detector,
        open_encoder(bundle, threads=1) as encoder,
        open_gallery(site, bundle, encoder) as gallery,
    ):
        recording = record(
            site, ([frame] for frame in film.frames()), {film.camid: film.truths},
            detector=detector, encoder=encoder, gallery=gallery,
            residents=range(1, spec.residents + 1), half_at=spec.half_at,
        )  # fmt: skip
    recording.save(target)


def _side_by_side(task: Callable[[Item], Answer], items: Sequence[Item], jobs: int) -> list[Answer]:
    if jobs == 1:
        return [task(item) for item in items]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(task, items))


def score_site(
    path: Path, bundle: Path, settings: Sequence[str] = (), *, jobs: int = 1, sweep: Sequence[float] = SWEEP
) -> dict[str, Any]:
    """Everything that is said about a recorded site."""
    recording = Recording.load(path)
    report = Bundle.load(bundle).manifest.threshold[recording.facts.precision]
    assert report.min_similarity is not None
    began = time.monotonic()
    replayed = replay(recording, replay_site(recording, bundle, settings))
    seconds = time.monotonic() - began
    tried = [round(min(max(float(least), 0.0), 1.0), 4) for least in report.min_similarity + np.array(sweep)]
    found = _side_by_side(partial(_idf1_at, path, bundle, tuple(settings)), tried, jobs)
    swept = {f"{least:.4f}": idf1 for least, idf1 in zip(tried, found, strict=True)}
    people = recording.people()
    greedy = {f"{least:.3f}": recording.score(greedy_identities(recording, float(least))).idf1 for least in GREEDY}
    return {
        "tracks": len(people),
        "people": len(recording.facts.pids),
        "seconds_of_replay": seconds,
        "min_similarity": report.min_similarity,
        "tail_decay": report.tail_decay,
        "threshold_method": report.method,
        "score": asdict(replayed.score),
        "score_alone": asdict(recording.score(replayed.identities, alone=True)),
        "false_merges": false_merges(replayed.identities, people),
        "identities_per_person": splits(replayed.identities, people),
        "live": live_errors(replayed.identities, recording),
        "open_set": open_set(recording, bundle, settings),
        "comparisons": compare_tracks(recording, report),
        "tuned": {"idf1": max(swept.values()), "min_similarity": max(swept, key=lambda least: swept[least])},
        "sweep": swept,
        "oracle": asdict(recording.score(people)),
        "greedy_calibrated": recording.score(greedy_identities(recording, report.min_similarity)).idf1,
        "greedy_tuned": max(greedy.values()),
        "greedy": greedy,
    }


def _idf1_at(path: Path, bundle: Path, settings: Sequence[str], min_similarity: float) -> float:
    """IDF1 of a replay with a threshold by hand."""
    recording = Recording.load(path)
    site = replay_site(recording, bundle, [*settings, f"identity.min_similarity={min_similarity}"])
    return replay(recording, site).score.idf1


def greedy_identities(recording: Recording, min_similarity: float) -> dict[TrackKey, int]:
    """The plain baseline: each track that ends takes the identity whose mean is nearest, or becomes a new one."""
    means = recording.means()
    ended = [key for key in map(recording.key, recording.ended_E) if key in means]
    sums_TD = np.zeros((len(ended), len(recording.embeddings_PD[0])), dtype=np.float32)
    identities: dict[TrackKey, int] = {}
    known = 0
    for key in ended:
        lengths = np.linalg.norm(sums_TD[:known], axis=1)
        similarities = sums_TD[:known] @ means[key] / lengths
        best = int(np.argmax(similarities)) if known else -1
        if best < 0 or similarities[best] < min_similarity:
            best, known = known, known + 1
        sums_TD[best] += means[key]
        identities[key] = best
    return identities


def false_merges(identities: Mapping[TrackKey, int | None], people: Mapping[TrackKey, int]) -> int:
    """Pairs of people who share an identity."""
    together: defaultdict[int, set[int]] = defaultdict(set)
    for key, identity in identities.items():
        if identity is not None and key in people:
            together[identity].add(people[key])
    pairs = {(a, b) for pids in together.values() for a in pids for b in pids if a < b}
    return len(pairs)


def splits(identities: Mapping[TrackKey, int | None], people: Mapping[TrackKey, int]) -> float:
    """Identities of a person, on average; tracks without one are left out."""
    found: defaultdict[int, set[int]] = defaultdict(set)
    for key, identity in identities.items():
        if identity is not None and key in people:
            found[people[key]].add(identity)
    return sum(map(len, found.values())) / max(len(found), 1)


def live_errors(identities: Mapping[TrackKey, int | None], recording: Recording) -> dict[str, float]:
    """How the second half went, by tracks.

    `false_match`: of the strangers' tracks, those with an identity that is mostly somebody else's. `missed_match`: of
    the residents' tracks, those without an identity that they had in the first half. `undecided`: of all tracks, those
    that never got one.
    """
    people, residents = recording.people(), set(recording.facts.residents)
    ends = {recording.key(row): float(row["time"]) for row in recording.ended_E}
    weights: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for row in recording.agreements_A:
        identity = identities.get(recording.key(row))
        if identity is not None:
            weights[identity][int(row["pid"])] += int(row["boxes"])
    owner = {identity: counter.most_common(1)[0][0] for identity, counter in weights.items()}
    before: defaultdict[int, set[int]] = defaultdict(set)
    later: list[tuple[int, int | None]] = []
    for key, pid in people.items():
        identity = identities.get(key)
        if ends[key] >= recording.facts.half_at:
            later.append((pid, identity))
        elif identity is not None and owner[identity] == pid:
            before[pid].add(identity)
    strangers = [i is not None and owner[i] != pid for pid, i in later if pid not in residents]
    missed = [i not in before[pid] for pid, i in later if pid in residents]
    return {
        "false_match": float(np.mean(strangers or [0.0])),
        "missed_match": float(np.mean(missed or [0.0])),
        "undecided": float(np.mean([identities.get(key) is None for key in people])),
    }


def open_set(recording: Recording, bundle: Path, settings: Sequence[str] = ()) -> dict[str, float]:
    """What the gallery alone does: residents enrolled from the truth of the first half, asked about the second one.

    `false_match`: strangers' tracks that are taken for a resident. `missed_match`: residents' tracks that match nobody.
    `mismatch`: residents' tracks that are taken for another resident.
    """
    people, means, residents = recording.people(), recording.means(), set(recording.facts.residents)
    site = replay_site(recording, bundle, settings)
    loaded = Bundle.load(bundle)
    encoder = open_encoder(loaded, precision=recording.facts.precision)
    ends = {recording.key(row): float(row["time"]) for row in recording.ended_E}
    answers: dict[str, list[bool]] = {"false_match": [], "missed_match": [], "mismatch": []}
    with open_gallery(site, loaded, encoder) as gallery:
        enrolled: dict[int, int] = {}
        for key in sorted(means, key=lambda key: ends[key]):
            pid = people.get(key)
            if pid is None:
                continue
            if ends[key] < recording.facts.half_at:
                enrolled[pid] = gallery.enrol(means[key], captured_at=ends[key], global_id=enrolled.get(pid))
                continue
            found = gallery.match(means[key]).global_id
            if pid not in residents:
                answers["false_match"].append(found is not None)
            elif pid in enrolled:
                answers["missed_match"].append(found is None)
                answers["mismatch"].append(found not in (None, enrolled[pid]))
    return {name: float(np.mean(said or [False])) for name, said in answers.items()} | {"enrolled": len(enrolled)}


def compare_tracks(recording: Recording, report: ThresholdReport) -> dict[str, float]:
    """Shares of pairs of tracks that reach the calibrated threshold."""
    people = recording.people()
    means = recording.means()
    keys = [key for key in means if key in people]
    means_TD = np.stack([means[key] for key in keys])
    pids_T = np.array([people[key] for key in keys])
    first, second = np.triu_indices(len(keys), k=1)
    similarities_P = (means_TD @ means_TD.T)[first, second]
    same_P = pids_T[first] == pids_T[second]
    assert report.min_similarity is not None
    different_P = similarities_P[~same_P]
    wanted = {f"{rate:g}": float(np.mean(different_P >= (report.similarity_at(rate) or 1.0))) for rate in RATES}
    return {
        "asked": report.false_match_rate or 0.0,
        "false_match": float(np.mean(different_P >= report.min_similarity)),
        "missed_match": float(np.mean(similarities_P[same_P] < report.min_similarity)),
        "different": len(different_P),
        "same": int(same_P.sum()),
        **{f"false_match_at_{rate}": share for rate, share in wanted.items()},
    }


RATES = (1e-2, 1e-3, 1e-4)
"""Asked of the tail, to see how far it holds."""


def run_all(
    work: Path,
    names: Sequence[str],
    *,
    seeds: Sequence[int],
    jobs: int,
    stages: Sequence[str] = STAGES,
    sweep: Sequence[float] = SWEEP,
    keep: Callable[[str, int, dict[str, Any]], None],
) -> None:
    """Make what is missing and score the sites; `keep` takes the name, the seed and what was found."""
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if "train" in stages:
        train_encoder(work, jobs=jobs)
        print(f"encoder: {time.monotonic() - began:.0f} s", file=sys.stderr)
    for seed, name in product(seeds, names):
        spec = SITES[name].model_copy(update={"seed": seed})
        for motion in (False, True) if name == "small" else (False,):
            site = f"{name}-motion" if motion else name
            bundle, path = work / f"bundle-{site}-{seed}", work / f"{site}-{seed}.npz"
            if "record" in stages:
                export_site(spec, work, work / "encoder", f"{site}-{seed}", jobs=jobs, motion=motion)
                record_site(spec, bundle, path, jobs=jobs, motion=motion)
                print(f"{site}-{seed}: recorded after {time.monotonic() - began:.0f} s", file=sys.stderr)
            if "score" in stages:
                found = score_site(path, bundle, jobs=jobs, sweep=sweep)
                keep(site, seed, spec.model_dump() | found | provenance())
                said = json.dumps(found["score"])
                print(f"{site}-{seed}: {said}, {time.monotonic() - began:.0f} s", file=sys.stderr)


def add_result(path: Path, site: str, seed: int, found: dict[str, Any]) -> None:
    """Put what was found of one site and seed beside what is in the file: each takes a while."""
    result = json.loads(path.read_text()) if path.exists() else {"false_match_rate": FALSE_MATCH_RATE, "sites": {}}
    result |= provenance()
    result["sites"].setdefault(site, {})[str(seed)] = found
    write_result(path, result)


def describe(result: dict[str, Any]) -> str:
    """The tables, and a line about what they were measured on."""
    header = [
        "site",
        "cameras, people",
        "seeds",
        "IDF1",
        "precision",
        "recall",
        "IDF1, undecided alone",
        "same tracks, best threshold",
        "same tracks, true",
    ]
    header += ["nearest identity, best threshold", "pairs who share an identity", "identities a person"]
    rows, error_rows = [], []
    for name, by_seed in result["sites"].items():
        found = list(by_seed.values())
        rows.append(
            [
                name,
                f"{found[0]['cameras']}, {found[0]['people']}",
                ", ".join(by_seed),
                _spread([one["score"]["idf1"] for one in found]),
                _spread([one["score"]["precision"] for one in found]),
                _spread([one["score"]["recall"] for one in found]),
                _spread([one["score_alone"]["idf1"] for one in found]),
                _spread([one["tuned"]["idf1"] for one in found]),
                _spread([one["oracle"]["idf1"] for one in found]),
                _spread([one["greedy_tuned"] for one in found]),
                _spread([one["false_merges"] for one in found], ".0f"),
                _spread([one["identities_per_person"] for one in found], ".2f"),
            ]
        )
        compared = [one["comparisons"] for one in found]
        error_rows.append(
            [
                name,
                f"{compared[0]['asked']:.2%}",
                _spread([one["false_match"] for one in compared], ".2%"),
                _spread([one["missed_match"] for one in compared], ".1%"),
                _spread([one["live"]["false_match"] for one in found], ".1%"),
                _spread([one["live"]["missed_match"] for one in found], ".1%"),
                _spread([one["live"]["undecided"] for one in found], ".1%"),
                _spread([one["open_set"]["false_match"] for one in found], ".1%"),
                _spread([one["open_set"]["missed_match"] for one in found], ".1%"),
            ]
        )
    errors = ["site", "false match of two tracks, asked", "found", "missed match of two tracks"]
    errors += ["stranger taken for somebody", "resident not recognised", "undecided"]
    errors += ["`match` alone: stranger taken for somebody", "resident not recognised"]
    return (
        f"Mean over the seeds (least to most); {ran_on(result)}\n\n{markdown_table(header, rows)}\n\n"
        f"{markdown_table(errors, error_rows)}"
    )


def _spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean, and from least to most where there are several."""
    mean = f"{np.mean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    """Make, score, or write the tables of what was scored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", default=Path("out/identity"), help="folder for all that is made")
    parser.add_argument("--sites", nargs="+", choices=list(SITES), default=list(SITES))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="of the sites; tune on others")
    parser.add_argument("--jobs", type=int, default=2, help="processes that film")
    parser.add_argument("--sweep", type=float, nargs="+", default=list(SWEEP), help="added to the threshold to tune it")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES), help="stages; the others were done")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="write the tables of the last result into the docs")
    args = parser.parse_args()
    if args.table:
        put_between_markers(DOCUMENT, "identity", describe(json.loads(args.result.read_text())))
        return
    try:
        run_all(
            args.work.resolve(),
            args.sites,
            seeds=args.seeds,
            jobs=args.jobs,
            stages=args.only,
            sweep=args.sweep,
            keep=partial(add_result, args.result),
        )
    except InputError as error:
        parser.error(str(error))
    if "score" in args.only:
        print(describe(json.loads(args.result.read_text())))


if __name__ == "__main__":
    main()
