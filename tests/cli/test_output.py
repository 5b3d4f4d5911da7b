from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from reidge.cli.output import add_json_argument, emit

if TYPE_CHECKING:
    import pytest

FIGURES = {"map_trained": 0.51234567, "identities": 40, "bundle": "out/bundle"}


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_json_argument(parser)
    return parser.parse_args(arguments)


def test_json_is_one_object_on_one_line_with_every_digit(capsys: pytest.CaptureFixture[str]) -> None:
    emit(parse("--json"), FIGURES)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed) == FIGURES


def test_without_json_each_figure_has_an_aligned_line(capsys: pytest.CaptureFixture[str]) -> None:
    emit(parse(), FIGURES)
    assert capsys.readouterr().out == "map_trained  0.5123\nidentities   40\nbundle       out/bundle\n"


def test_no_figures_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    emit(parse(), {})
    assert capsys.readouterr().out == ""
