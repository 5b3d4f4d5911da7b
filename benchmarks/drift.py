"""What `reidge drift` says when nothing has changed, and when something has.

    .venv/bin/python benchmarks/drift.py --encoder osnet_x0_25_msmt17.pth --architecture osnet_x0_25

The tracklets of the simulated data set are divided by chance. A bundle is calibrated on one half; the other half is the
site later, as it is (whole, and in five parts, each of which should be `fine`) and with each change made to its pixels.
"""

# H, W = height and width of a crop

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from publish import DOCUMENT, RESULTS, markdown_table, provenance, put_between_markers, ran_on, write_result
from simulated import CROPS, SETTINGS, ensure

from reidge.calibration.drift import find_drift
from reidge.edge.bundle import Bundle
from reidge.edge.crops import CropFolder, CropRecord, CropWriter, read_crop_folder, read_image
from reidge.edge.errors import ReidgeError
from reidge.export.bundle import export_bundle
from reidge.train.checkpoint import load_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from reidge.calibration.drift import DriftReport

    Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]

PARTS = 5


def at_night(image_HW3: NDArray[np.float32]) -> NDArray[np.float32]:
    """Infrared light: no colour, darker, more noise."""
    grey_HW1 = image_HW3.mean(axis=2, keepdims=True)
    noise_HW3 = np.random.default_rng(0).normal(0, 12, image_HW3.shape)
    return np.asarray(0.7 * grey_HW1 + noise_HW3, dtype=np.float32)


def from_afar(image_HW3: NDArray[np.float32]) -> NDArray[np.float32]:
    """A person 32 pixels tall."""
    height, width = image_HW3.shape[:2]
    small = cv2.resize(image_HW3, (max(32 * width // height, 1), 32), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height)), dtype=np.float32)


CHANGES: dict[str, Change] = {
    "10 % brighter": lambda image: 1.1 * image,
    "30 % brighter": lambda image: 1.3 * image,
    "80 % brighter": lambda image: 1.8 * image,
    "half as bright": lambda image: 0.5 * image,
    "warm light": lambda image: image * np.array([0.75, 1, 1.2], dtype=np.float32),
    "out of focus": lambda image: np.asarray(cv2.GaussianBlur(image, (0, 0), 2.5), dtype=np.float32),
    "from afar": from_afar,
    "at night": at_night,
}


def divide(folder: CropFolder, seed: int) -> tuple[list[CropRecord], list[CropRecord]]:
    """Two halves of the tracklets, by chance."""
    tracklets = sorted({record.tracklet for record in folder.records})
    random.Random(seed).shuffle(tracklets)
    first = set(tracklets[: len(tracklets) // 2])
    return [r for r in folder.records if r.tracklet in first], [r for r in folder.records if r.tracklet not in first]


def rewrite(source: Path, records: Sequence[CropRecord], target: Path, change: Change | None = None) -> Path:
    """Write some crops of a folder as a folder of their own, changed."""
    shutil.rmtree(target, ignore_errors=True)
    with CropWriter(target) as writer:
        for record in records:
            image_HW3 = read_image(source / record.path)
            if change is not None:
                image_HW3 = np.clip(change(image_HW3.astype(np.float32)), 0, 255).astype(np.uint8)
            writer.add(image_HW3, record)
    return target


def measure(encoder_path: Path, architecture: str | None, root: Path, work: Path, *, seed: int) -> list[dict[str, Any]]:
    """Calibrate on one half and look at the other, unchanged and changed."""
    source = read_crop_folder(root)
    then, now = divide(source, seed)
    encoder = load_encoder(encoder_path, architecture)
    shutil.rmtree(work / "bundle", ignore_errors=True)
    export_bundle(encoder, rewrite(root, then, work / "then"), work / "bundle", method="percentile", force=True)
    bundle = Bundle.load(work / "bundle")
    tracklets = sorted({record.tracklet for record in now})
    random.Random(seed).shuffle(tracklets)
    rows = []
    for part in range(PARTS):
        chosen = set(tracklets[part::PARTS])
        crops = rewrite(root, [record for record in now if record.tracklet in chosen], work / "now")
        rows.append(describe(f"nothing, part {part + 1}", find_drift(bundle, crops, seed=seed)))
    rows.append(describe("nothing", find_drift(bundle, rewrite(root, now, work / "now"), seed=seed)))
    for name, change in CHANGES.items():
        rows.append(describe(name, find_drift(bundle, rewrite(root, now, work / "now", change), seed=seed)))
    return rows


def describe(change: str, report: DriftReport) -> dict[str, Any]:
    """The figures that the verdict hangs on."""
    rates, worst = report.rates_now, report.saturation[0]
    return {
        "change": change,
        "verdict": report.verdict,
        "reasons": list(report.reasons),
        "inhomogeneity": round(report.appearance.inhomogeneity, 4),
        "p_value": report.appearance.p_value,
        "novel_share": round(report.appearance.novel_share, 3),
        "saturation_then": round(worst.then, 6),
        "saturation_now": round(worst.now, 6),
        "cosine_then": None if report.cosine_then is None else round(report.cosine_then, 4),
        "cosine_now": round(report.cosine_now, 4),
        "false_matches": None if rates is None or rates.different is None else round(rates.different, 4),
        "same_matches": None if rates is None or rates.same is None else round(rates.same, 3),
    }


def write_table(result: dict[str, Any], document: Path) -> None:
    """Put the result into the document."""
    header = ["change", "energy distance", "novel", "beyond range", "INT8 cosine", "different match", "same match"]
    parts = [row for row in result["rows"] if row["change"].startswith("nothing, part")]
    rows = [
        [
            f"{row['change']}: **{row['verdict']}**", f"{row['inhomogeneity']:.3f}", f"{row['novel_share']:.0%}",
            f"{row['saturation_now']:.2%}", f"{row['cosine_now']:.4f}", percent(row["false_matches"]),
            percent(row["same_matches"]),
        ]
        for row in result["rows"] if row not in parts
    ]  # fmt: skip
    fine = sum(row["verdict"] == "fine" for row in parts)
    about = (
        f"{result['encoder']}. Of {len(parts)} parts of the unchanged half {fine} are `fine`. Ran on {ran_on(result)}"
    )
    put_between_markers(document, "drift", f"{markdown_table(header, rows)}\n\n{about}")


def percent(share: float | None) -> str:
    """A share as a percentage."""
    return "" if share is None else f"{share:.1%}"


def main() -> int:
    """Measure and write, or write the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, help="run folder or weights")
    parser.add_argument("--architecture", help="what a foreign .pth belongs to")
    parser.add_argument("--data", choices=SETTINGS, default="cpu", help="size of the simulated data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("out/drift"), help="working folder")
    parser.add_argument("--result", type=Path, default=RESULTS / "drift-cpu.json")
    parser.add_argument("--table", action="store_true", help="write the table of docs/results.md and run nothing")
    args = parser.parse_args()
    if args.table:
        write_table(json.loads(args.result.read_text()), DOCUMENT)
        return 0
    if args.encoder is None:
        parser.error("--encoder is needed")
    data = args.output / f"data-{args.data}"
    ensure(SETTINGS[args.data], data)
    rows = measure(args.encoder, args.architecture, data / CROPS, args.output, seed=args.seed)
    write_result(args.result, {**provenance(), "encoder": args.encoder.name, "data": args.data, "rows": rows})
    for row in rows:
        print(f"{row['change']:20} {row['verdict']}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ReidgeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
