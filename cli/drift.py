"""`reidge drift`: bundle + crops of the running site -> whether to calibrate again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidge.cli.output import add_json_argument, emit

if TYPE_CHECKING:
    import argparse

    from reidge.calibration.drift import DriftReport


ADVICE = {
    "fine": "the site looks as it did at the calibration.",
    "look": "something has changed; see whether people are still told apart.",
    "recalibrate": "export the bundle again with crops of the site as it is now.",
}
TOO_FEW = "no change was found, but in too little to be sure."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle that runs at the site")
    parser.add_argument("--crops", type=Path, required=True, help="crop folder harvested from the site now")
    parser.add_argument(
        "--separate-views",
        action="store_true",
        help="cameras never see the same spot, so people seen at once in two of them are different",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another limit")
    parser.add_argument("--seed", type=int, default=0, help="of the crops that are looked at")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Compare and report; the verdict is the answer, not the exit status."""
    from reidge.calibration.drift import DriftLimits, find_drift
    from reidge.edge.bundle import Bundle
    from reidge.edge.settings import apply_overrides, validate

    limits = validate(DriftLimits, apply_overrides({}, args.set), where="--set")
    report = find_drift(
        Bundle.load(args.bundle), args.crops, limits=limits, separate_views=args.separate_views, seed=args.seed
    )
    if args.json:
        emit(args, asdict(report))
        return 0
    nothing_but_few = not report.enough and len(report.reasons) == 1
    print(f"{report.verdict}: {TOO_FEW if nothing_but_few else ADVICE[report.verdict]}")
    for reason in report.reasons:
        print(f"- {reason}")
    emit(args, figures_of(report))
    return 0


def figures_of(report: DriftReport) -> dict[str, Any]:
    """What matters most, by name."""
    rates = report.rates_now
    return {
        "crops": report.crops_now,
        "tracklets": report.tracklets_now,
        "novel_share": report.appearance.novel_share,
        "energy_distance": report.appearance.inhomogeneity,
        "p_value": report.appearance.p_value,
        f"cosine_{report.precision}_then": report.cosine_then,
        f"cosine_{report.precision}_now": report.cosine_now,
        "different_match": None if rates is None else rates.different,
        "same_match": None if rates is None else rates.same,
    }
