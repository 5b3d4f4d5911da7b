"""Where a bundle comes from: fingerprints of weights and data, versions of the tools."""

# N = crops, H, W = input height and width

from __future__ import annotations

import hashlib
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from reidge.edge.bundle import GivenScales, Provenance, sha256_file
from reidge.edge.crops import INDEX_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.calibration.select import CropSets
    from reidge.train.encoders.encoder import Encoder

TOOLS = ("reidge", "torch", "onnx", "onnxruntime", "openvino", "numpy", "opencv-python")


def describe_origin(
    encoder: Encoder, sets: CropSets, *, source: str, recipe: Mapping[str, Any] | None, seed: int
) -> Provenance:
    """Say what a bundle is being made of, here and now."""
    return Provenance(
        architecture=encoder.architecture,
        source=source,
        weights_sha256=hash_weights(encoder),
        calibration_sha256=hash_array(sets.calibration_NHW3),
        calibration_crops=len(sets.calibration_NHW3),
        held_out_crops=len(sets.held_out_NHW3),
        coverage=sets.coverage,
        data_sha256=sha256_file(sets.folder.root / INDEX_NAME),
        recipe=None if recipe is None else dict(recipe),
        seed=seed,
        versions=tool_versions(),
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def with_scales(origin: Provenance, path: Path) -> Provenance:
    """The same of a bundle whose ranges were given in a file of scales: no crop took part in finding them."""
    path = path.resolve()
    given = GivenScales(source=f"{path.parent.name}/{path.name}", sha256=sha256_file(path))
    return origin.model_copy(
        update={"scales": given, "calibration_sha256": None, "calibration_crops": 0, "coverage": None}
    )


def hash_weights(encoder: Encoder) -> str:
    """Hex SHA-256 over names, types, shapes and values of all weights, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def hash_array(crops_NHW3: NDArray[np.uint8]) -> str:
    """Hex SHA-256 over shape and values."""
    digest = hashlib.sha256(f"{crops_NHW3.dtype} {crops_NHW3.shape}\n".encode())
    digest.update(np.ascontiguousarray(crops_NHW3).tobytes())
    return digest.hexdigest()


def tool_versions() -> dict[str, str]:
    """Versions of Python and of what took part, as far as installed."""
    versions = {"python": platform.python_version()}
    for tool in TOOLS:
        try:
            versions[tool] = version(tool)
        except PackageNotFoundError:  # e.g. another build of OpenCV
            continue
    return versions
