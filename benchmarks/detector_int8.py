"""What INT8 costs a detector: boxes of INT8 held against those of float on frames held out of calibration.

    .venv/bin/python benchmarks/detector_int8.py yolox_nano.onnx --frames hall.mp4 door.mp4
    .venv/bin/python benchmarks/detector_int8.py --table

By the way ranges are taken, with depthwise convolutions in INT8 and in float. Times are medians of a frame on the
processor runtime that the edge takes, float and INT8 in turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from publish import RESULTS, markdown_table, provenance, put_between_markers, ran_on, write_result

from reidge.calibration.frames import read_frame_sets
from reidge.calibration.ranges import METHODS, observe, ranges_from
from reidge.edge.agreement import compare_detections
from reidge.export.detector import FRAMES
from reidge.export.detector_graph import PREPROCESSING, examine, fold, read_detector
from reidge.export.detector_search import depthwise_blocks
from reidge.export.detector_trial import Trial, processor_backends, time_graphs
from reidge.export.quantize import blocks, placements, quantize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reidge.calibration.ranges import RangeMethod

RESULT = RESULTS / "detector-int8-cpu.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "deployment.md"


def measure(
    network: Path, frames: Sequence[Path], *, count: int, threads: int | None, methods: Sequence[RangeMethod] = METHODS
) -> dict[str, Any]:
    """Try every way to quantise a detector on the same frames."""
    model = read_detector(network)
    anatomy = examine(model, network)
    fold(model, anatomy, PREPROCESSING[anatomy.family], person_class=0)
    sets = read_frame_sets(frames, size=anatomy.size, count=count)
    calibration = (frame_HW3[None] for frame_HW3 in sets.calibration_NHW3)
    histograms = observe(model, [place.tensor for place in placements(model)], calibration, threads=threads)
    choices = {"in INT8": frozenset[str](), "in float": depthwise_blocks(model)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(folder=Path(folder), backend=processor_backends()[0], threads=threads)
        onnx.save(model, trial.path("float"))
        reference = trial.detect("float", sets.held_out_NHW3)
        for depthwise, float_blocks in choices.items():
            for method in methods:
                int8 = quantize(model, ranges_from(histograms, method), float_blocks=float_blocks)
                onnx.save(int8, trial.path("int8"))
                agreement = compare_detections(reference, trial.detect("int8", sets.held_out_NHW3)).model_dump()
                milliseconds = time_graphs(trial, sets.held_out_NHW3)
                rows.append({"depthwise": depthwise, "method": method, **agreement, "milliseconds": milliseconds})
    return {
        **provenance(),
        "network": network.name,
        "frames": [path.name for path in frames],
        "calibration_frames": len(sets.calibration_NHW3),
        "backend": trial.backend,
        "blocks": len(blocks(model)),
        "depthwise_blocks": len(choices["in float"]),
        "rows": rows,
    }


def describe(result: dict[str, Any]) -> str:
    """The table of a result and what it is about."""
    header = ["depthwise convolutions, ranges", "recall", "precision", "mean IoU", "score", "ms, INT8 (float)"]
    table = [
        [
            f"{row['depthwise']}, {row['method']}",
            *(f"{row[name]:.3f}" for name in ("recall", "precision", "mean_iou")),
            f"{row['score_shift']:+.3f}",
            f"{row['milliseconds']['int8']:.1f} ({row['milliseconds']['float']:.1f})",
        ]
        for row in result["rows"]
    ]
    first = result["rows"][0]
    return (
        f"{result['network']}, {result['depthwise_blocks']} of whose {result['blocks']} quantisable blocks are "
        f"depthwise convolutions; {first['boxes']} people of score 0.5 or more in {first['frames']} held-out frames, "
        f"{result['calibration_frames']} frames to calibrate on; {result['backend']} on {ran_on(result)}\n\n"
        f"{markdown_table(header, table)}"
    )


def main() -> None:
    """Measure, or write the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path, nargs="?", help="YOLOX or RT-DETR as ONNX")
    parser.add_argument("--frames", type=Path, nargs="+", default=[], help="recordings and pictures")
    parser.add_argument("--count", type=int, default=FRAMES, help="most frames")
    parser.add_argument("--threads", type=int, help="of the runtime; all cores if not given")
    parser.add_argument("--table", action="store_true", help="write the table of the last result into the docs")
    args = parser.parse_args()
    if args.table:
        put_between_markers(DOCUMENT, "detector-int8", describe(json.loads(RESULT.read_text())))
        return
    if args.network is None or not args.frames:
        parser.error("give a network and --frames, or --table")
    result = measure(args.network, args.frames, count=args.count, threads=args.threads)
    write_result(RESULT, result)
    print(describe(result))


if __name__ == "__main__":
    main()
