"""`scales.json`: the activation ranges of an encoder, whose they are, and how they were found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from reidge.edge.errors import InputError
from reidge.edge.settings import describe_problem
from reidge.export.quantize import placements, scale_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onnx import ModelProto

    from reidge.calibration.ranges import Histogram

SCALES_NAME = "scales.json"
MAX_RATIO = 64
"""Between a range and the largest magnitude that is seen. A range read off a histogram is rarely below a thirtieth of
the largest value, and never above it."""
AGAIN = "Leave --scales out to calibrate anew."


class Activation(BaseModel, frozen=True, extra="forbid"):
    """The range of one activation."""

    range: float = Field(ge=0, allow_inf_nan=False)
    """Largest magnitude that INT8 represents."""
    scale: float = Field(gt=0, allow_inf_nan=False)
    """Activation units in one INT8 step."""
    largest: float = Field(ge=0, allow_inf_nan=False)
    """Largest magnitude that was seen on the calibration crops."""


class Scales(BaseModel, frozen=True, extra="forbid"):
    """What the file says."""

    weights_sha256: str
    """Of the encoder they belong to. Another encoder has other activations, even of the same names."""
    method: str
    float_blocks: tuple[str, ...] = ()
    """Blocks whose activations are float in the INT8 graph, although their ranges are known."""
    activations: dict[str, Activation]

    @property
    def ranges(self) -> dict[str, float]:
        """Range of each activation."""
        return {name: activation.range for name, activation in self.activations.items()}


def describe_scales(
    ranges: Mapping[str, float],
    largest: Mapping[str, float],
    *,
    weights_sha256: str,
    method: str,
    float_blocks: tuple[str, ...],
) -> Scales:
    """Put together what the file shall say; `largest` is the largest magnitude seen of each activation."""
    activations = {
        name: Activation(range=ranges[name], scale=scale_of(name, ranges), largest=largest[name]) for name in ranges
    }
    return Scales(weights_sha256=weights_sha256, method=method, float_blocks=float_blocks, activations=activations)


def write_scales(path: Path, scales: Scales) -> None:
    """Write the file."""
    path.write_text(scales.model_dump_json(indent=1) + "\n", encoding="utf-8")


def scales_file(path: Path) -> Path:
    """The file of scales, or the one in a bundle."""
    return path / SCALES_NAME if path.is_dir() else path


def read_scales(path: Path, model: ModelProto, *, weights_sha256: str) -> Scales:
    """Read ranges that an earlier export of the same encoder found.

    Args:
        path: `scales.json`, or the bundle it is in.
        model: The float graph, whose activations must all be there.
        weights_sha256: Of the encoder that is being exported.

    Raises:
        InputError: The file is missing or damaged, of other weights, or lacks an activation of the graph.
    """
    path = scales_file(path)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. {AGAIN}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}). {AGAIN}") from error
    try:
        scales = Scales.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path} holds no usable scales: {where or 'the whole'}: {describe_problem(first)}. {AGAIN}"
        ) from error
    if scales.weights_sha256 != weights_sha256:
        raise InputError(
            f"{path} was calibrated for other weights ({scales.weights_sha256[:12]}..., this encoder has "
            f"{weights_sha256[:12]}...): its ranges mean nothing here. {AGAIN}"
        )
    missing = [place.tensor for place in placements(model) if place.tensor not in scales.activations]
    if missing:
        raise InputError(f"{path} lacks the range of {len(missing)} activations, e.g. {missing[0]}. {AGAIN}")
    return scales


def check_plausible(ranges: Mapping[str, float], histograms: Mapping[str, Histogram], path: Path) -> None:
    """Hold given ranges against what the activations are on this site's crops.

    Raises:
        InputError: One is more than `MAX_RATIO` times too wide or too narrow.
    """
    for name, histogram in histograms.items():
        seen, given = histogram.largest, ranges[name]
        if seen > 0 and not seen / MAX_RATIO <= given <= seen * MAX_RATIO:
            side = "above" if given > seen else "below"
            raise InputError(
                f"{path}: the range {given:.4g} of {name} is far {side} what it reaches on these crops, {seen:.4g}. "
                f"The scales are wrong. {AGAIN}"
            )
