"""How a stage reports figures: one JSON object with `--json`, readable lines without."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--json`."""
    parser.add_argument("--json", action="store_true", default=False, help="print one machine-readable JSON object")


def add_log_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--log`."""
    parser.add_argument(
        "--log", choices=["text", "json"], default="text", help="lines on stderr: text, or one JSON object each"
    )


def emit(args: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Print figures to stdout: a JSON object on one line with `--json`, else one aligned line each."""
    if args.json:
        print(json.dumps(figures))
        return
    if figures:
        print(lines_of(figures))


def lines_of(figures: Mapping[str, Any]) -> str:
    """One aligned line for each figure."""
    width = max((len(name) for name in figures), default=0)
    return "\n".join(
        f"{name:<{width}}  {f'{value:.4g}' if isinstance(value, float) else value}" for name, value in figures.items()
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns of text as wide as they need to be; None is shown as a dash."""
    lines = [list(headings), *(["-" if value is None else str(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
