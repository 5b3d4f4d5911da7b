"""The metrics that are published, held against the code that counts them and the page that explains them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from reidge.edge.exposition import COUNTERS, GAUGES
from reidge.edge.metrics import Stage
from reidge.edge.quality import Flaw

ROOT = Path(__file__).parents[2]


def names_in_code(*methods: str) -> set[str]:
    call = re.compile(rf"\.(?:_?)(?:{'|'.join(methods)})\(\s*\"([a-z_]+)\"")
    return {name for path in (ROOT / "edge").rglob("*.py") for name in call.findall(path.read_text())}


def test_every_number_that_is_counted_is_explained() -> None:
    assert names_in_code("count", "total") - COUNTERS.keys() == set()
    assert names_in_code("gauge") - GAUGES.keys() == set()
    assert {f"pictures_{flaw}" for flaw in (*get_args(Flaw), "blurred")} <= COUNTERS.keys()


def test_every_number_that_is_explained_is_counted() -> None:
    dynamic = {name for name in COUNTERS if name.startswith("pictures_")} | {"frames_failed"}
    assert COUNTERS.keys() - names_in_code("count", "total") == dynamic
    assert GAUGES.keys() == names_in_code("gauge")


def test_the_page_for_operators_lists_exactly_what_is_published() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    published = {f"reidge_{name}_total" for name in COUNTERS} | {f"reidge_{name}" for name in GAUGES}
    assert set(re.findall(r"^\| `(reidge_\w+)`", page, re.MULTILINE)) == published | {
        "reidge_stage_seconds",
        "reidge_info",
    }
    (stages,) = re.findall(r"^\| `reidge_stage_seconds` .*", page, re.MULTILINE)
    assert set(get_args(Stage)) <= set(re.findall(r"`(\w+)`", stages))
