"""A site in small: crops of people in plain clothes, and a bundle that tells them apart by colour."""

# N = crops, H, W = height and width

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import cv2
import numpy as np
import onnx
import pytest

from reidge.calibration.ranges import observe, ranges_from
from reidge.calibration.snapshot import CALIBRATION_NAME, describe_calibration
from reidge.calibration.threshold import calibrate_threshold
from reidge.edge.backends import load_runner
from reidge.edge.bundle import MANIFEST_NAME, ONNX_NAMES, Manifest, Parity, describe_file
from reidge.edge.crops import CropRecord, CropWriter, read_crop_folder, read_image, resize_crops
from reidge.export.quantize import placements, quantize

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

SHOTS = 4
SIZE = 32, 16


def write_site(
    root: Path,
    *,
    seed: int,
    people: int = 40,
    cameras: tuple[str, ...] = ("hall", "door"),
    light: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda image: image,
) -> Path:
    """Four crops each of people of random colours, three at a time in view of a camera, under this light."""
    rng = np.random.default_rng(seed)
    with CropWriter(root) as writer:
        for pid in range(people):
            camid = cameras[pid % len(cameras)]
            clothes = cv2.resize(rng.uniform(40, 200, (8, 4, 3)).astype(np.float32), (20, 40))
            for shot in range(SHOTS):
                image = light(np.asarray(clothes, dtype=np.float32)) + rng.normal(0, 8, clothes.shape)
                x1 = 100.0 * (pid // len(cameras) % 3)
                record = CropRecord(
                    path=f"{pid:03d}/{shot}.jpg",
                    camid=camid,
                    tracklet=f"{camid}-{pid}",
                    captured_at=1e9 + 20 * (pid // (3 * len(cameras))) + shot,
                    x1=x1,
                    y1=0,
                    x2=x1 + 20,
                    y2=40,
                    score=1,
                    sharpness=1,
                )
                writer.add(np.clip(image, 0, 255).astype(np.uint8), record)
    return root


def write_manifest(bundle: Path, **changes: object) -> None:
    """Describe the files as they are, with these changes."""
    files = {path.name: describe_file(path) for path in sorted(bundle.iterdir()) if path.name != MANIFEST_NAME}
    manifest = Manifest.model_validate_json((bundle / MANIFEST_NAME).read_bytes())
    manifest = manifest.model_copy(update={"files": files, **changes})
    (bundle / MANIFEST_NAME).write_text(manifest.model_dump_json())


@pytest.fixture
def harvest_site(tmp_path: Path) -> Callable[..., Path]:
    """Writes a crop folder of the site as it is now; see `write_site`."""
    return lambda **options: write_site(tmp_path / "now", **options)


@pytest.fixture
def describe_again() -> Callable[..., None]:
    """Rewrites the manifest of a bundle after a test has changed its files."""
    return write_manifest


@pytest.fixture
def site_bundle(made_site: Path, tmp_path: Path) -> Path:
    """The tiny bundle in float and INT8, calibrated on forty people at two cameras; `then` beside it has their crops.

    Each test has its own copy.
    """
    shutil.copytree(made_site, tmp_path, dirs_exist_ok=True)
    return tmp_path / "bundle"


@pytest.fixture(scope="session")
def made_site(tmp_path_factory: pytest.TempPathFactory, make_tiny_bundle: Callable[[Path], Path]) -> Path:
    """Where `site_bundle` is copied from."""
    root = tmp_path_factory.mktemp("site")
    bundle, folder = make_tiny_bundle(root / "bundle"), read_crop_folder(write_site(root / "then", seed=0))
    model = onnx.load(bundle / ONNX_NAMES["float"])
    for number, node in enumerate(model.graph.node):
        node.name = f"/body/{node.op_type}{number}/{node.op_type}"
    crops_NHW3 = resize_crops((read_image(folder.root / record.path) for record in folder.records), size=SIZE)
    ranges = ranges_from(observe(model, [place.tensor for place in placements(model)], [crops_NHW3], threads=1), "max")
    onnx.save(quantize(model, ranges), bundle / ONNX_NAMES["int8"])
    describe_calibration(
        bundle / CALIBRATION_NAME,
        bundle / ONNX_NAMES["float"],
        folder,
        ranges,
        size=SIZE,
        resize="linear",
        weights_sha256="0" * 64,
        threads=1,
    )
    embeddings = {}
    for precision, name in ONNX_NAMES.items():
        runner = load_runner(bundle / name, "onnxruntime", threads=1)
        embeddings[precision] = runner.run(crops_NHW3)
        runner.close()
    cosines_N = np.einsum("nd,nd->n", embeddings["float"], embeddings["int8"])
    parity = Parity(
        crops=len(cosines_N),
        cosine_mean=float(cosines_N.mean()),
        cosine_p1=float(np.percentile(cosines_N, 1)),
        max_abs_diff=1,
        neighbour_overlap=1,
    )
    write_manifest(
        bundle,
        golden_min_cosine={"float": 0.99, "int8": 0.9},
        parity={"int8": parity},
        threshold={name: calibrate_threshold(found_ND, folder.records) for name, found_ND in embeddings.items()},
    )
    return root
