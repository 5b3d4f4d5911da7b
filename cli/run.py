"""`reidge run`: a site file to identities and events."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from reidge.cli.output import add_json_argument, emit
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the stage's arguments."""
    parser.add_argument("site", type=Path, metavar="SITE.yaml", help="the site file")
    parser.add_argument("--seconds", type=float, metavar="N", help="stop after N seconds of wall time")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a setting, e.g. cameras.0.max_fps=5"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Do the work and return the exit status."""
    from reidge.edge.pipeline import run_site
    from reidge.edge.site import load_site

    if args.seconds is not None and not args.seconds > 0:
        raise InputError(f"--seconds is {args.seconds:g}. Give more than 0.")
    site = load_site(args.site, args.set)
    if args.json and site.outputs.events == "-":
        raise InputError("events and --json would both go to stdout. Set outputs.events to a file.")
    with stopped_by_signals() as stop:
        summary = run_site(site, seconds=args.seconds, stop=stop)
    if site.outputs.events != "-":
        emit(args, asdict(summary))
    return 0


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into a wish to stop; a second one ends the process at once."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
