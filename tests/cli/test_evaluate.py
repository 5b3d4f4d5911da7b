from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from reidge.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

COLOURS = {"anna": (200, 30, 30), "ben": (30, 200, 30), "carl": (30, 30, 200)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three people of one colour each, twice in each of two cameras: CAMERA/PERSON_NUMBER.png."""
    rng = np.random.default_rng(0)
    for camera in ("door", "yard"):
        (tmp_path / "images" / camera).mkdir(parents=True)
        for pid, colour in COLOURS.items():
            for i in range(2):
                crop = np.array(colour) + rng.integers(0, 30, (32, 16, 3))
                cv2.imwrite(str(tmp_path / "images" / camera / f"{pid}_{i}.png"), crop.astype(np.uint8))
    return tmp_path / "images"


def figures(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["evaluate", "histogram", *arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_own_images_told_by_their_names(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(["--data", str(images), "--pattern", r"(?P<camid>\w+)/(?P<pid>[a-z]+)_"], capsys)
    assert (found["queries"], found["gallery"]) == (12, 12)
    assert found["map"] == pytest.approx(100)


def test_own_images_told_by_a_table(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "images.csv"
    lines = [
        f"{path.relative_to(images)},{path.stem.split('_')[0]},{path.parent.name},"
        f"{'query' if path.parent.name == 'door' else 'gallery'}"
        for path in sorted(images.rglob("*.png"))
    ]
    table.write_text("\n".join(["path,pid,camid,split", *lines]))
    found = figures(["--data", str(images), "--csv", str(table)], capsys)
    assert (found["queries"], found["gallery"]) == (6, 6)
    assert found["map"] == pytest.approx(100)


def test_re_ranking_is_said_and_done(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--data", str(images), "--pattern", r"(?P<camid>\w+)/(?P<pid>[a-z]+)_"]
    assert figures(own, capsys)["reranked"] is False
    reranked = figures([*own, "--rerank"], capsys)
    assert reranked["reranked"] is True
    assert reranked["map"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layout", "market"], "there is no layout 'market'"),
        (["--pattern", "(?P<who>x)"], "must name its groups"),
        (["--pattern", r"(?P<camid>\w+)/(?P<pid>\w+)\."], "two cameras"),  # anna_0 of the door is not that of the yard
        (["--csv", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["--batch-size", "0"], "--batch-size is 0"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    arguments: list[str], said: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (images / "yard").iterdir():
        path.rename(path.with_name(f"yard{path.name}"))
    assert main(["evaluate", "histogram", "--data", str(images), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err.splitlines()[-1]
    assert "Traceback" not in captured.err
