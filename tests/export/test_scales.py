from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.calibration.ranges import Histogram
from reidge.edge.errors import InputError
from reidge.export.scales import check_plausible, describe_scales, read_scales, write_scales

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

WEIGHTS = "a" * 64
RANGES = {"x": 12.7, "y": 0.0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    scales = describe_scales(
        RANGES, {"x": 20.0, "y": 0.0}, weights_sha256=WEIGHTS, method="mse", float_blocks=("deep",)
    )
    write_scales(tmp_path / "scales.json", scales)
    return tmp_path / "scales.json"


def test_what_was_written_is_read_from_the_file_or_its_bundle(path: Path, two_blocks: ModelProto) -> None:
    for place in (path, path.parent):
        scales = read_scales(place, two_blocks, weights_sha256=WEIGHTS)
        assert scales.ranges == RANGES
        assert scales.activations["x"].scale == pytest.approx(0.1)
        assert (scales.method, scales.float_blocks) == ("mse", ("deep",))


def test_scales_of_other_weights_are_refused(path: Path, two_blocks: ModelProto) -> None:
    with pytest.raises(InputError, match=r"calibrated for other weights \(aaaaaaaaaaaa..., this encoder has bbbb"):
        read_scales(path, two_blocks, weights_sha256="b" * 64)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content["activations"].pop("y"), "lacks the range of 1 activations, e.g. y"),
        (lambda content: content["activations"]["x"].update(range=-1), r"activations\.x\.range"),
        (lambda content: content["activations"]["x"].update(range=float("nan")), r"activations\.x\.range"),
        (lambda content: content["activations"]["x"].pop("range"), r"activations\.x\.range: is missing"),
        (lambda content: content.pop("weights_sha256"), "weights_sha256: is missing"),
    ],
)
def test_scales_that_lack_something_or_make_no_sense_are_refused_in_one_line(
    path: Path, two_blocks: ModelProto, spoil: object, message: str
) -> None:
    content = json.loads(path.read_text())
    assert callable(spoil)
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as error:
        read_scales(path, two_blocks, weights_sha256=WEIGHTS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        pytest.param("[" * 100_000, "is not JSON", id="deep"),
        ("[]", "no usable scales"),
        (None, "cannot be"),
    ],
)
def test_a_file_that_is_damaged_or_absent_is_refused(
    tmp_path: Path, two_blocks: ModelProto, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "scales.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_scales(tmp_path / "scales.json", two_blocks, weights_sha256=WEIGHTS)


@pytest.mark.parametrize(("given", "side"), [(1000.0, "far above"), (0.1, "far below"), (0.0, "far below")])
def test_ranges_far_from_what_the_crops_give_are_refused(tmp_path: Path, given: float, side: str) -> None:
    histogram = Histogram()
    histogram.add(np.array([0, 10], dtype=np.float32))
    check_plausible({"x": 9.0}, {"x": histogram}, tmp_path)
    check_plausible({"x": 0.2}, {"x": histogram}, tmp_path)  # a heavy tail, cut off
    with pytest.raises(InputError, match=f"of x is {side} what it reaches on these crops, 10"):
        check_plausible({"x": given}, {"x": histogram}, tmp_path)
