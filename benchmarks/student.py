"""What a small encoder gains by learning from a large one's run instead of alone, on the simulated data set.

    .venv/bin/python benchmarks/student.py --teacher out/ablation-cpu/seed0/RUN --data out/ablation-cpu/data
    .venv/bin/python benchmarks/student.py --table      # writes the table of docs/results.md

Both see the same crops, take the same number of steps of the same size, and read no label.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from publish import DOCUMENT, RESULTS, markdown_table, provenance, put_between_markers, ran_on, write_result
from simulated import CROPS

from reidge.edge.errors import ReidgeError
from reidge.train.checkpoint import load_encoder
from reidge.train.datasets import open_benchmark
from reidge.train.evaluate import evaluate_split
from reidge.train.extract import embed_crops
from reidge.train.loop import train
from reidge.train.recipe import load_recipe

RESULT = RESULTS / "student-cpu.json"
COMMON = (
    "encoder.input_size=[64, 32]", "encoder.resize=linear", "encoder.stripes=1", "encoder.pooling=avg",
    "encoder.ghost_batch=null", "augment.pad=4", "loop.device=cpu",
)  # fmt: skip
EPOCHS, ITERS, WARMUP = 16, 30, 4


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train the student both ways and score it beside the encoder it learns from."""
    student = (*COMMON, f"encoder.architecture={args.architecture}", f"loop.iters={ITERS}")
    arms = {
        "alone": (f"warmup.epochs={WARMUP}", f"loop.epochs={EPOCHS - WARMUP}"),
        "distilled": (f"loop.epochs={EPOCHS}", f"distil.encoder={args.teacher}"),
    }
    figures = {"teacher": _score(args.teacher, args.data)}
    for name, overrides in arms.items():
        run_dir = args.output / name
        shutil.rmtree(run_dir, ignore_errors=True)
        summary = train(load_recipe("quick", [*student, *overrides]), args.data / CROPS, run_dir)
        figures[name] = {**_score(run_dir, args.data), "seconds": round(summary.seconds)}
    return {**provenance(), "images": EPOCHS * ITERS * 128, "figures": figures}


def _score(run_dir: Path, data: Path) -> dict[str, Any]:
    encoder = load_encoder(run_dir)
    ranking = evaluate_split(
        lambda crops_NHW3: embed_crops(encoder, crops_NHW3),
        open_benchmark(data, quiet=True),
        size=encoder.input_size,
        resize=encoder.resize,
    )
    return {
        "architecture": encoder.architecture,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "embedding_dim": encoder.embedding_dim,
        "mAP": ranking.mAP,
        "rank1": ranking.rank1,
    }


def table(result: dict[str, Any]) -> str:
    """The three encoders side by side."""
    rows = [
        [
            {"teacher": "the trained encoder", "alone": "student alone", "distilled": "student, distilled"}[name],
            f"`{arm['architecture']}`",
            f"{arm['parameters'] / 1e6:.2f} M",
            str(arm["embedding_dim"]),
            f"{100 * arm['mAP']:.1f}",
            f"{100 * arm['rank1']:.1f}",
        ]
        for name, arm in result["figures"].items()
    ]
    header = ["", "network", "weights", "embedding", "mAP", "rank-1"]
    return f"{markdown_table(header, rows)}\n\n{ran_on(result)}"


def main() -> int:
    """Measure, or write the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, help="run folder of the trained encoder")
    parser.add_argument("--data", type=Path, help="folder that benchmarks/simulated.py has written")
    parser.add_argument("--architecture", default="osnet_x0_25", help="the student's network")
    parser.add_argument("--output", type=Path, default=Path("out/student"), help="working folder")
    parser.add_argument("--table", action="store_true", help="write the table of docs/results.md and run nothing")
    args = parser.parse_args()
    if args.table:
        put_between_markers(DOCUMENT, "student-cpu", table(json.loads(RESULT.read_text())))
        return 0
    if args.teacher is None or args.data is None:
        parser.error("give --teacher and --data, or --table")
    write_result(RESULT, measure(args))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ReidgeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
