"""How much faster the INT8 graph is than float on this processor: ResNet-50, OpenVINO against ONNX Runtime and itself.

    .venv/bin/python benchmarks/int8_speed.py
    .venv/bin/python benchmarks/int8_speed.py --table
    .venv/bin/python benchmarks/int8_speed.py --bundle BUNDLE   # of your own encoder

The graphs are those of an export: uint8 crops in, unit embeddings out. Weights are random and ranges are those of the
crops that are embedded, for speed depends on neither. The sides take turns in one process; float has OpenVINO's two
number formats and both of its modes to be fast in, and the best of them counts. The ratios are those within a round.
"""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import openvino
import torch
from publish import RESULTS, markdown_table, provenance, put_between_markers, ran_on, write_result

from reidge.calibration.ranges import observe
from reidge.edge.backends import load_runner
from reidge.edge.bundle import ONNX_NAMES, Bundle
from reidge.edge.errors import InputError, ReidgeError
from reidge.export.onnx import export_onnx
from reidge.export.quantize import placements, quantize
from reidge.train.encoders import build_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Speeds = Mapping[str, float]

DOCUMENT = Path(__file__).parents[1] / "docs" / "deployment.md"
CROPS = 8
"""Embedded in one call."""
GOALS = {"onnxruntime_float": 5.0, "openvino_float": 1.2}
"""Least ratios of INT8 that are good enough."""
CONVOLUTIONS = ("Convolution", "GroupConvolution")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One way to run one graph."""

    embed: Callable[[int], NDArray[np.float32]]
    """Embed the crops so many times and return the last embeddings, `(N, D)`."""
    convolutions: dict[str, int]
    """Number formats that the runtime executes them in, where it tells."""


def make_graphs(architecture: str, folder: Path) -> tuple[dict[str, Path], NDArray[np.uint8]]:
    """Write the float and the INT8 graph of an encoder with random weights, and draw crops for them."""
    torch.manual_seed(0)
    encoder = build_encoder(architecture).eval()
    crops_NHW3 = np.random.default_rng(0).integers(0, 256, (CROPS, *encoder.input_size, 3), dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {precision: folder / name for precision, name in ONNX_NAMES.items()}
    model = export_onnx(encoder, paths["float"])
    found = observe(model, [place.tensor for place in placements(model)], [crops_NHW3], threads=None)
    onnx.save(quantize(model, {name: seen.largest for name, seen in found.items()}), paths["int8"])
    return {str(precision): path for precision, path in paths.items()}, crops_NHW3


def take_graphs(bundle: Bundle) -> tuple[dict[str, Path], NDArray[np.uint8]]:
    """The graphs of a bundle, and as many of its golden crops as are embedded at a time."""
    paths: dict[str, Path] = {"float": bundle.onnx_path("float"), "int8": bundle.onnx_path("int8")}
    return paths, np.resize(bundle.golden.crops_NHW3, (CROPS, *bundle.golden.crops_NHW3.shape[1:]))


def open_sides(paths: Mapping[str, Path], crops_NHW3: NDArray[np.uint8], threads: int | None) -> dict[str, Side]:
    """Open every side that this processor has, by name; those of INT8 end in `int8 ...`."""
    runner = load_runner(paths["float"], "onnxruntime", threads=threads)

    def embed(times: int) -> NDArray[np.float32]:
        return [runner.run(crops_NHW3) for _ in range(times)][-1]

    formats = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    sides = {"onnxruntime float f32": Side(embed=embed, convolutions={})}
    for mode in ("latency", "throughput"):
        for precision in ("f32", *(["bf16"] if "BF16" in formats else [])):
            options = {"INFERENCE_PRECISION_HINT": precision}
            name = f"openvino float {precision} {mode}"
            sides[name] = open_side(paths["float"], crops_NHW3, mode, options, threads)
        sides[f"openvino int8 {mode}"] = open_side(paths["int8"], crops_NHW3, mode, {}, threads)
    return sides


def open_side(
    path: Path, crops_NHW3: NDArray[np.uint8], mode: str, options: Mapping[str, str], threads: int | None
) -> Side:
    """Compile a graph for one request at a time on all cores, or for as many at once as OpenVINO thinks best."""
    properties: dict[str, Any] = {"PERFORMANCE_HINT": mode.upper(), **options}
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(path, "CPU", properties)
    queue = openvino.AsyncInferQueue(compiled, 1 if mode == "latency" else 0)

    def embed(times: int) -> NDArray[np.float32]:
        for _ in range(times):
            queue.start_async({0: crops_NHW3}, share_inputs=True)
        queue.wait_all()
        return np.array(queue[0].get_output_tensor(0).data, dtype=np.float32)

    embed(2 * len(queue))  # formats are settled when the sizes are known
    return Side(embed=embed, convolutions=executed_formats(compiled))


def executed_formats(compiled: Any) -> dict[str, int]:
    """Count the convolutions that OpenVINO executes in each number format."""
    infos = (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
    told = ((str(info["layerType"].astype(str)), str(info["runtimePrecision"].astype(str))) for info in infos)
    return dict(Counter(precision for kind, precision in told if kind in CONVOLUTIONS))


def take_turns(sides: Mapping[str, Side], *, rounds: int, seconds: float) -> list[dict[str, float]]:
    """Let each side embed for some seconds, and again; crops per second of each, by round."""
    turns = []
    for number in range(rounds):
        names = list(sides)
        start = number % len(names)  # so that no side always runs after the same one
        turns.append({name: speed_of(sides[name], seconds) for name in names[start:] + names[:start]})
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return turns


def speed_of(side: Side, seconds: float) -> float:
    """Crops per second of one turn, after a call that warms the caches and tells how many calls make a turn."""
    began = time.perf_counter()
    side.embed(1)
    times = max(2, round(seconds / (time.perf_counter() - began)))
    began = time.perf_counter()
    side.embed(times)
    return CROPS * times / (time.perf_counter() - began)


def ratios_of(turns: Sequence[Speeds]) -> dict[str, dict[str, float]]:
    """INT8 as `reidge run` runs it and at its best, against float likewise: median, least and largest of the rounds."""
    rounds: dict[str, list[float]] = {"onnxruntime_float": [], "openvino_float": [], "openvino_float_as_run": []}
    for turn in turns:
        as_run = turn["openvino int8 latency"]
        floats = {name: speed for name, speed in turn.items() if name.startswith("openvino float")}
        best = max(speed for name, speed in turn.items() if name.startswith("openvino int8"))
        rounds["onnxruntime_float"].append(as_run / turn["onnxruntime float f32"])
        rounds["openvino_float"].append(best / max(floats.values()))
        rounds["openvino_float_as_run"].append(
            as_run / max(speed for name, speed in floats.items() if name.endswith("latency"))
        )
    return {
        name: {"median": statistics.median(found), "least": min(found), "largest": max(found)}
        for name, found in rounds.items()
    }


def summarise(args: argparse.Namespace, sides: Mapping[str, Side], turns: Sequence[Speeds]) -> dict[str, Any]:
    """Put all sides together, with how near their embeddings are to ONNX Runtime's."""
    reference_ND = sides["onnxruntime float f32"].embed(1)
    ratios = ratios_of(turns)
    found = provenance()
    return {
        **found,
        "versions": found["versions"] | {"openvino": openvino.__version__.split("-")[0]},
        "encoder": args.encoder if args.bundle is None else args.bundle.name,
        "batch": CROPS,
        "threads": args.threads,
        "sides": {
            name: {
                "images_per_second": round(statistics.median(turn[name] for turn in turns), 1),
                "least": round(min(turn[name] for turn in turns), 1),
                "largest": round(max(turn[name] for turn in turns), 1),
                "cosine": round(float(np.einsum("nd,nd->n", side.embed(1), reference_ND).mean()), 4),
                "convolutions": side.convolutions,
            }
            for name, side in sides.items()
        },
        "ratios": {name: {key: round(value, 2) for key, value in ratio.items()} for name, ratio in ratios.items()},
        "goals": GOALS,
        "reached": all(ratios[name]["median"] >= goal for name, goal in GOALS.items()),
        "rounds": [{name: round(speed, 1) for name, speed in turn.items()} for turn in turns],
    }


def write_table(result: Mapping[str, Any], document: Path) -> None:
    """Put the result into the document."""
    rows = [
        [
            name, f"{side['images_per_second']:.0f}", f"{side['least']:.0f} to {side['largest']:.0f}",
            ", ".join(f"{count} in {kind}" for kind, count in side["convolutions"].items()) or "not told",
        ]
        for name, side in result["sides"].items()
    ]  # fmt: skip
    table = markdown_table(["graph and mode", "images/s", "over the rounds", "convolutions executed"], rows)
    against_runtime, against_float = result["ratios"]["onnxruntime_float"], result["ratios"]["openvino_float"]
    as_run = result["ratios"]["openvino_float_as_run"]
    text = (
        f"{table}\n\nINT8 is {spoken(against_runtime)} times as fast as ONNX Runtime's float, and at its best "
        f"{spoken(against_float)} times as fast as OpenVINO's float at its best; in the mode that `reidge run` uses, "
        f"{spoken(as_run)} times. `{result['encoder']}`, {result['batch']} crops a call, {len(result['rounds'])} "
        f"rounds, medians. OpenVINO {result['versions']['openvino']}. Ran on {ran_on(dict(result))}"
    )
    put_between_markers(document, "int8-speed", text)


def spoken(ratio: Mapping[str, float]) -> str:
    """A ratio with its spread."""
    return f"{ratio['median']:.1f} ({ratio['least']:.1f} to {ratio['largest']:.1f})"


def main() -> int:
    """Measure and write, or write the table of what was measured; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50", help="architecture, with random weights")
    parser.add_argument("--bundle", type=Path, help="measure these graphs in place of an encoder's")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--threads", type=int, help="processor threads (default: all cores)")
    parser.add_argument("--output", type=Path, default=Path("out/int8-speed"), help="working folder")
    parser.add_argument("--result", type=Path, default=RESULTS / "int8-speed-cpu.json")
    parser.add_argument("--table", action="store_true", help="write the table of docs/deployment.md and run nothing")
    args = parser.parse_args()
    if args.table:
        write_table(json.loads(args.result.read_text()), DOCUMENT)
        return 0
    if args.rounds < 1 or not args.seconds > 0:
        raise InputError(f"--rounds and --seconds must be positive, got {args.rounds} and {args.seconds}.")
    paths, crops_NHW3 = (
        make_graphs(args.encoder, args.output) if args.bundle is None else take_graphs(Bundle.load(args.bundle))
    )
    sides = open_sides(paths, crops_NHW3, args.threads)
    result = summarise(args, sides, take_turns(sides, rounds=args.rounds, seconds=args.seconds))
    write_result(args.result, result)
    print(json.dumps({name: result[name] for name in ("sides", "ratios", "goals", "reached")}))
    return 0 if result["reached"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ReidgeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
