"""`reidge demo`: the whole trip on a simulated site."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reidge.cli.output import add_json_argument, emit

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the stage's arguments."""
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder for everything the demo writes")
    parser.add_argument("--seed", type=int, default=0, help="of the site and of the training")
    parser.add_argument("--recipe", default="quick", help="name or file of the training recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe")
    parser.add_argument("--overwrite", action="store_true", default=False, help="remove what an earlier demo wrote")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo and report its figures."""
    from reidge.demo.site import SiteConfig
    from reidge.demo.trip import clear, run_demo
    from reidge.train.recipe import load_recipe

    recipe = load_recipe(args.recipe, [f"loop.seed={args.seed}", *args.set])
    if args.overwrite:
        clear(args.output)
    emit(args, run_demo(args.output, recipe, SiteConfig(seed=args.seed)))
    print(
        f"\nLook at {args.output}/result.png (who was recognised where), {args.output}/run/report.html (how it was "
        f"learnt) and {args.output}/bundle/report.html (what INT8 cost).",
        file=sys.stderr,
    )
    return 0
