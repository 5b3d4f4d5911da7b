"""`reidge run`: a site file to identities and events."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from reidge.cli.output import add_json_argument, add_log_argument, emit
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from reidge.edge.orders import Orders


class PrintSchema(argparse.Action):
    """Prints the JSON Schema of site files and ends, as `--help` does with help."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print it."""
        from reidge.edge.schema import schema_text

        print(schema_text(), end="")
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the stage's arguments."""
    parser.add_argument("site", type=Path, metavar="SITE.yaml", help="the site file")
    parser.add_argument(
        "--check", action="store_true", default=False, help="try everything the site needs, say it, and run nothing"
    )
    parser.add_argument("--seconds", type=float, metavar="N", help="stop after N seconds of wall time")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a setting, e.g. cameras.0.max_fps=5"
    )
    parser.add_argument(
        "--schema",
        action=PrintSchema,
        nargs=0,
        default=argparse.SUPPRESS,
        help="print the JSON Schema of site files, for editors, and exit",
    )
    add_json_argument(parser)
    add_log_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Do the work and return the exit status."""
    from reidge.edge.orders import orders_by_signal

    if args.seconds is not None and not args.seconds > 0:
        raise InputError(f"--seconds is {args.seconds:g}. Give more than 0.")
    if args.check:
        return check(args)
    with orders_by_signal() as orders:  # before the heavy imports: an order that comes meanwhile is obeyed after them
        return run_until(args, orders)


def run_until(args: argparse.Namespace, orders: Orders) -> int:
    """Run the site until its cameras end or it is told to stop, and return the exit status."""
    from reidge.edge.figures import readable
    from reidge.edge.service import run_site
    from reidge.edge.site import load_site

    site = load_site(args.site, args.set)
    if args.json and site.outputs.events == "-":
        raise InputError("events and --json would both go to stdout. Set outputs.events to a file.")
    recordings = not any(camera.live for camera in site.cameras)
    if orders.stop.is_set():
        return 0
    summary = run_site(
        site,
        seconds=args.seconds,
        orders=orders,
        reread=lambda: load_site(args.site, args.set),
        progress=recordings or sys.stderr.isatty(),  # a service has its log, which is no place for a counter
    )
    if site.outputs.events != "-":
        emit(args, asdict(summary) if args.json else readable(summary))
    return 1 if summary.events_lost else 0


def check(args: argparse.Namespace) -> int:
    """Try everything and return the exit status that a run would begin with; a camera that is away is no failure."""
    from reidge.edge.check import check_site
    from reidge.edge.site import load_site

    status, figures = 0, []
    for finding in check_site(load_site(args.site, args.set)):
        status = max(status, finding.exit_status)
        figures.append(asdict(finding))
        if not args.json:
            print(f"{finding.state:<6} {finding.part}: {finding.text}", flush=True)
    if args.json:
        print(json.dumps({"ok": status == 0, "findings": figures}))
    return status
