"""What INT8 costs: the gates of three encoders by calibration method, with and without the search for blocks in float.

    .venv/bin/python benchmarks/quantisation.py
    .venv/bin/python benchmarks/quantisation.py --encoder osnet_x0_25 --data footage   # one part
    .venv/bin/python benchmarks/quantisation.py --table

Encoders: `small` as the demo trains it and a briefly trained `resnet50`, both from random weights on the simulated data
set without labels, and `osnet_x0_25` with published weights. Crops: harvested from footage, and the simulated data set,
whose people to be recognised have labels. Every graph runs in the backend that an edge would choose here. What is
finished is kept in the working folder, so an interrupted run goes on where it was.
"""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from publish import RESULTS, markdown_table, provenance, put_between_markers, ran_on, write_result
from simulated import CROPS, SETTINGS, ensure

from reidge.calibration.harvest import HarvestConfig, harvest
from reidge.calibration.ranges import METHODS, observe, ranges_from
from reidge.calibration.select import read_crop_sets
from reidge.edge.detectors.yolox import YoloxConfig
from reidge.edge.errors import InputError, ReidgeError
from reidge.export.judge import LabelledSplit, RuntimeJudge, host_backend
from reidge.export.onnx import export_onnx
from reidge.export.parity import INT8_GATE
from reidge.export.quantize import placements
from reidge.export.sensitivity import MAX_FLOAT_SHARE, search_int8
from reidge.train.checkpoint import load_encoder
from reidge.train.datasets import open_benchmark
from reidge.train.extract import embed_crops
from reidge.train.loop import train
from reidge.train.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from reidge.export.sensitivity import Int8Search
    from reidge.train.encoders.encoder import Encoder

DOCUMENT = Path(__file__).parents[1] / "docs" / "quantisation.md"
SHARED = Path(__file__).parents[2] / "shared"
ENCODERS = ("small", "osnet_x0_25", "resnet50")
DATA = ("footage", "simulated")
WAYS = (*METHODS, "auto")
CALIBRATION_SIZE, HELD_OUT_SIZE = 512, 256
OBSERVE_BATCH = 8
RESNET50 = (
    "encoder.architecture=resnet50",
    "encoder.stripes=1",
    "optim.lr=3.5e-4",
    "warmup.lr=3.5e-4",
    "warmup.epochs=3",
    "warmup.iters=50",
    "loop.epochs=4",
    "loop.iters=50",
    "sampler.clusters=8",
    "sampler.images=4",
)
"""Enough for batch norm to see people; not enough for a good encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One float graph, what calibrates it and who judges it."""

    model: ModelProto
    ranges: Mapping[str, Mapping[str, float]]
    """By method."""
    judge: RuntimeJudge
    calibration_crops: int


def harvest_footage(shared: Path, root: Path) -> Path:
    """Crops of all shared footage, each file a camera."""
    if not root.is_dir():
        media = shared / "media"
        paths = [*sorted(media.glob("*.mp4")), *sorted(media.glob("*.gif")), *sorted(media.glob("pose2sim/*.mp4"))]
        detector = YoloxConfig(path=shared / "weights" / "yolox_nano.onnx")
        # Short recordings of few people: what is usable is kept rather than only the best.
        config = HarvestConfig(
            detector=detector, max_fps=8, border=0, min_crops=2, min_height=48, min_difference=3, crops_per_tracklet=40
        )
        harvest({path.stem: str(path) for path in paths}, root, config)
    return root


def find_encoder(name: str, args: argparse.Namespace) -> Encoder:
    """Load an encoder, trained first where it has no published weights."""
    if name == "osnet_x0_25":
        return load_encoder(args.shared / "weights" / "osnet_x0_25_msmt17.pth", name).eval()
    run = args.output / name
    if not (run / "encoder.safetensors").is_file():
        overrides = [*(RESNET50 if name == "resnet50" else ()), *args.set]
        train(load_recipe("quick", overrides), args.output / "data" / CROPS, run)
    return load_encoder(run).eval()


def prepare(encoder: Encoder, data: str, args: argparse.Namespace) -> Bench:
    """Draw crops as an export does, export the float graph and take its ranges in every way."""
    simulated = args.output / "data"
    crops = simulated / CROPS if data == "simulated" else harvest_footage(args.shared, args.output / "footage")
    sets = read_crop_sets(
        crops,
        size=encoder.input_size,
        resize=encoder.resize,
        calibration_size=args.calibration_size,
        held_out_size=HELD_OUT_SIZE,
        seed=args.seed,
        embed=partial(embed_crops, encoder),
    )
    graph = args.output / "encoder.onnx"
    model = export_onnx(encoder, graph)
    parts = np.array_split(sets.calibration_NHW3, -(-len(sets.calibration_NHW3) // OBSERVE_BATCH))
    histograms = observe(model, [place.tensor for place in placements(model)], parts, threads=args.threads)
    split = None
    if data == "simulated":
        benchmark = open_benchmark(simulated, quiet=True)
        split = LabelledSplit(benchmark=benchmark, resize=encoder.resize, size=encoder.input_size, threads=args.threads)
    judge = RuntimeJudge(
        crops_NHW3=sets.held_out_NHW3,
        reference_ND=embed_crops(encoder, sets.held_out_NHW3),
        path=args.output / "encoder.int8.onnx",
        gate=INT8_GATE,
        threads=args.threads,
        split=split,
        float_accuracy=None if split is None else split.score(graph, "onnxruntime"),
    )
    ranges = {str(method): ranges_from(histograms, method) for method in METHODS}
    return Bench(model=model, ranges=ranges, judge=judge, calibration_crops=len(sets.calibration_NHW3))


def measure(bench: Bench, way: str) -> dict[str, Any]:
    """The gate's figures of one way to take ranges, all in INT8 and after the search."""
    choices = bench.ranges if way == "auto" else {way: bench.ranges[way]}
    plain = search_int8(bench.model, choices, bench.judge, max_float_share=0)
    started = time.perf_counter()
    # A graph that passes needs no search; its figures are those it has.
    found = plain if plain.verdict.passed else search_int8(bench.model, choices, bench.judge)
    return {
        "method": plain.method,
        "all_int8": describe(plain, bench),
        "searched": describe(found, bench) | {"seconds": round(time.perf_counter() - started, 1)},
    }


def describe(found: Int8Search, bench: Bench) -> dict[str, Any]:
    """Figures of one graph; accuracy too where the split has labels, whether or not the rest passed."""
    verdict, judge = found.verdict, bench.judge
    accuracy = verdict.accuracy
    if accuracy is None and judge.split is not None:
        judge.compare(found.model)  # leaves the graph where the split finds it
        accuracy = judge.split.score(judge.path, host_backend())
    checks = judge.gate.checks(verdict.parity, accuracy, judge.float_accuracy)
    return {
        **verdict.parity.model_dump(include={"cosine_mean", "cosine_p1", "neighbour_overlap"}),
        "map": None if accuracy is None else accuracy.mAP,
        "rank1": None if accuracy is None else accuracy.rank1,
        "missed": [str(check) for check in checks if not check.passed],
        "float_blocks": list(found.float_blocks),
        "float_share": found.float_share,
    }


def measure_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what is missing and give all that was asked for.

    Raises:
        InputError: A kept part was made with other settings or versions.
    """
    ensure(SETTINGS[args.setting], args.output / "data")
    made_with = {
        **{name: getattr(args, name) for name in ("setting", "set", "calibration_size", "seed")},
        **provenance()["versions"],
    }
    parts = []
    for name in args.encoder or ENCODERS:
        for data in args.data or DATA:
            kept = args.output / f"{name}-{data}.json"
            if not kept.is_file():
                write_result(kept, {"made_with": made_with, **measure_part(name, data, args)})
            part = json.loads(kept.read_text())
            if part.pop("made_with") != made_with:
                raise InputError(
                    f"{kept} was made with other settings or versions. Delete it or choose another --output."
                )
            parts.append(part)
    return parts


def measure_part(name: str, data: str, args: argparse.Namespace) -> dict[str, Any]:
    """All ways to take ranges for one encoder and one source of crops."""
    bench = prepare(find_encoder(name, args), data, args)
    accuracy = bench.judge.float_accuracy
    ways = {}
    for way in WAYS:
        ways[way] = measure(bench, way)
        print(f"{name} {data} {way}: {ways[way]['searched']['missed'] or 'passes'}", file=sys.stderr, flush=True)
    height, width = bench.judge.crops_NHW3.shape[1:3]
    return {
        "encoder": name,
        "data": data,
        "input_size": [height, width],
        "calibration_crops": bench.calibration_crops,
        "held_out_crops": len(bench.judge.crops_NHW3),
        "backend": host_backend(),
        "map_float": None if accuracy is None else accuracy.mAP,
        "rank1_float": None if accuracy is None else accuracy.rank1,
        "queries": None if accuracy is None else accuracy.queries,
        "ways": ways,
    }


def tabulate(result: dict[str, Any]) -> str:
    """The table of docs/quantisation.md."""
    header = (
        "encoder, crops",
        "ranges",
        "mean cosine",
        "1st percentile",
        "same 10 nearest",
        "mAP",
        "rank-1",
        "all INT8",
        "in float after the search",
    )
    rows = []
    for part in result["parts"]:
        for way, found in part["ways"].items():
            plain, searched = found["all_int8"], found["searched"]
            label = f"auto: {found['method']}" if way == "auto" else way
            rows.append(
                (
                    f"`{part['encoder']}`, {part['data']}",
                    label,
                    f"{plain['cosine_mean']:.4f}",
                    f"{plain['cosine_p1']:.4f}",
                    f"{100 * plain['neighbour_overlap']:.1f} %",
                    loss(plain["map"], part["map_float"]),
                    loss(plain["rank1"], part["rank1_float"]),
                    "misses" if plain["missed"] else "passes",
                    after_search(searched),
                )
            )
    gate = ", ".join(f"{name} {value:g}" for name, value in result["gate"].items())
    held_out = ", ".join(
        f"`{part['encoder']}` on {part['data']} {part['calibration_crops']} and {part['held_out_crops']}"
        for part in result["parts"]
    )
    passed = sum(not found["searched"]["missed"] for part in result["parts"] for found in part["ways"].values())
    total = sum(len(part["ways"]) for part in result["parts"])
    note = (
        f"Gate: {gate}. mAP and rank-1 are points, in brackets the change from the float graph. Crops that gave the "
        f"ranges, and held-out crops: {held_out}. After the search, with at most "
        f"{100 * result['max_float_share']:.0f} % of the multiply-adds in float, {passed} of {total} graphs pass. "
        f"{ran_on(result)}"
    )
    return f"{markdown_table(header, rows)}\n\n{note}"


def loss(found: float | None, reference: float | None) -> str:
    """A share in points and its change; nothing without labels."""
    if found is None or reference is None:
        return ""
    return f"{100 * found:.1f} ({100 * (found - reference):+.1f})"


def after_search(searched: Mapping[str, Any]) -> str:
    """What the search left in float, and whether that passes."""
    share = f"{100 * searched['float_share']:.0f} %" if searched["float_blocks"] else "nothing"
    return f"{share}, misses" if searched["missed"] else share


def main() -> None:
    """Measure what is missing and write the result, or the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", choices=ENCODERS, help="may be repeated; all by default")
    parser.add_argument("--data", action="append", choices=DATA, help="may be repeated; both by default")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with media/ and weights/")
    parser.add_argument("--setting", choices=SETTINGS, default="cpu", help="size of the simulated data set")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe of training")
    parser.add_argument("--calibration-size", type=int, default=CALIBRATION_SIZE, help="most crops to take ranges from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of the runtimes; all cores by default")
    parser.add_argument("--output", type=Path, default=Path("out") / "quantisation", help="working folder")
    parser.add_argument("--result", type=Path, default=RESULTS / "quantisation-cpu.json")
    parser.add_argument("--table", action="store_true", help="write the table of docs/quantisation.md and run nothing")
    args = parser.parse_args()
    try:
        if args.table:
            put_between_markers(DOCUMENT, "quantisation", tabulate(json.loads(args.result.read_text())))
            return
        parts = measure_all(args)
    except InputError as error:
        parser.error(str(error))
    except ReidgeError as error:
        sys.exit(str(error))
    result = {
        **provenance(),
        "setting": args.setting,
        "gate": INT8_GATE.model_dump(),
        "max_float_share": MAX_FLOAT_SHARE,
        "parts": parts,
    }
    write_result(args.result, result)
    print(tabulate(result))


if __name__ == "__main__":
    main()
