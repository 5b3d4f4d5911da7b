"""Fixtures shared by the packages' tests: the smallest real things."""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reidge.edge import cuda
from reidge.edge.backends import load_runner
from reidge.edge.bundle import (
    GOLDEN_NAME,
    MANIFEST_NAME,
    ONNX_NAMES,
    InputSpec,
    Manifest,
    Provenance,
    ThresholdReport,
    describe_file,
)
from reidge.edge.redact import KNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

TINY_SIZE = 32, 16


def tiny_graph() -> onnx.ModelProto:
    """Mean colour of each 8x8 cell of a 32x16 crop, relative to mid-grey: an encoder that knows clothes by colour."""
    weights = np.zeros((3, 3, 8, 8), dtype=np.float32)
    weights[range(3), range(3)] = 1 / 64
    constants: dict[str, NDArray[Any]] = {
        "grey": np.array(110, dtype=np.float32),
        "weights": weights,
        "shape": np.array([0, 24], dtype=np.int64),
        "axes": np.array([1], dtype=np.int64),
        "eps": np.array(1e-12, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "grey"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weights"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Reshape", ["cells", "shape"], ["flat"]),
        helper.make_node("Mul", ["flat", "flat"], ["squares"]),
        helper.make_node("ReduceSum", ["squares", "axes"], ["sum"], keepdims=1),
        helper.make_node("Add", ["sum", "eps"], ["safe"]),
        helper.make_node("Sqrt", ["safe"], ["norm"]),
        helper.make_node("Div", ["flat", "norm"], ["embeddings"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", *TINY_SIZE, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", 24])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_tiny_bundle(folder: Path) -> Path:
    """A real bundle in a few kilobytes, float only."""
    folder.mkdir()
    onnx_path = folder / ONNX_NAMES["float"]
    onnx.save(tiny_graph(), onnx_path)
    crops_NHW3 = np.random.default_rng(0).integers(0, 256, (16, *TINY_SIZE, 3), dtype=np.uint8)
    runner = load_runner(onnx_path, "onnxruntime", threads=1)
    np.savez(folder / GOLDEN_NAME, crops=crops_NHW3, embeddings=runner.run(crops_NHW3))
    runner.close()
    manifest = Manifest(
        files={path.name: describe_file(path) for path in sorted(folder.iterdir())},
        input=InputSpec(height=TINY_SIZE[0], width=TINY_SIZE[1]),
        embedding_dim=24,
        golden_min_cosine={"float": 0.999},
        threshold={"float": ThresholdReport(min_similarity=0.9, method="by hand")},
        provenance=Provenance(
            architecture="tiny",
            source="tests",
            weights_sha256="0" * 64,
            calibration_sha256="0" * 64,
            calibration_crops=0,
            created_at="2026-01-01T00:00:00+00:00",
        ),
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2))
    return folder


@pytest.fixture(scope="session")
def make_tiny_bundle() -> Callable[[Path], Path]:
    """Writes the tiny bundle to a new folder, for fixtures that build on it once."""
    return write_tiny_bundle


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    """A bundle folder of its own for each test; input 32x16, embedding 24-d, float only."""
    return write_tiny_bundle(tmp_path / "tiny_bundle")


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests() -> Iterator[None]:
    """What one test calls a secret may stand in the messages that another one expects."""
    yield
    KNOWN.forget()


SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real footage and weights beside the repository; skips where it is absent."""
    if not (SHARED / "weights").is_dir():
        pytest.skip("needs real footage and weights in ../shared")
    return SHARED


def write_video(path: Path, images: Iterable[NDArray[np.uint8]], fps: int = 10) -> None:
    """Encode BGR images to H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "ultrafast"})
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(images):
            if number == 0:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))


def draw_walk(
    people: list[tuple[tuple[int, int, int], tuple[int, int, int], float, float, int]], frames: int
) -> Iterable[NDArray[np.uint8]]:
    """Frames 320x180 in which people, 30x90 boxes of two colours, cross before a still wall with some noise.

    Args:
        people: Colour of shirt and of trousers (BGR), x in the first frame, pixels per frame, and y of the head.
        frames: How many.
    """
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(90, 150, (18, 32, 3), dtype=np.uint8), (320, 180), interpolation=cv2.INTER_CUBIC)
    for t in range(frames):
        image = wall.astype(np.float32)
        for shirt, trousers, x0, speed, y in people:
            x = round(x0 + speed * t)
            left, right = max(x, 0), max(x + 30, 0)
            image[y : y + 45, left:right] = shirt
            image[y + 45 : y + 90, left:right] = trousers
            image[y + 5 : y + 85 : 10, left:right] *= 0.8  # stripes: something to be sharp about
        yield np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


RED, GREEN, BLUE, WHITE = (30, 30, 220), (40, 200, 40), (220, 40, 30), (240, 240, 240)


@pytest.fixture(scope="session")
def walks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Recordings of two cameras, 12 s at 10 fps: red passes cam1 and later cam2; blue passes cam1 only.

    Red is in cam1 in frames 22 to 64, blue in frames 38 to 71, at least 70 pixels apart; red is in cam2 in frames 73
    to 116.
    """
    folder = tmp_path_factory.mktemp("walks")
    write_video(folder / "cam1.mp4", draw_walk([(RED, WHITE, -200, 8, 50), (BLUE, GREEN, -400, 10, 60)], 120))
    write_video(folder / "cam2.mp4", draw_walk([(RED, WHITE, 900, -8, 40)], 120))
    return {"cam1": folder / "cam1.mp4", "cam2": folder / "cam2.mp4"}


@pytest.fixture(scope="session")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 3 s in which nobody comes."""
    path = tmp_path_factory.mktemp("still") / "still.mp4"
    write_video(path, draw_walk([], 30))
    return path


@pytest.fixture(scope="session")
def osnet_bundle(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of OSNet x0.25 with published weights, calibrated on people of real footage."""
    from reidge.calibration.harvest import HarvestConfig, harvest
    from reidge.edge.detectors.yolox import YoloxConfig
    from reidge.export.bundle import export_bundle
    from reidge.train.checkpoint import load_encoder

    folder = tmp_path_factory.mktemp("osnet")
    config = HarvestConfig(
        detector=YoloxConfig(path=shared / "weights" / "yolox_nano.onnx"), max_fps=5, until=30, border=0
    )
    footage = {"hall": str(shared / "media" / "one-by-one-person-detection.mp4")}
    harvest(footage, folder / "crops", config, progress=False)
    encoder = load_encoder(shared / "weights" / "osnet_x0_25_msmt17.pth", architecture="osnet_x0_25")
    export_bundle(encoder, folder / "crops", folder / "bundle", calibration_size=16, method="max", threads=2)
    return folder / "bundle"


FAKES = Path(__file__).parent / "edge"


@pytest.fixture(scope="session")
def cudart_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake CUDA runtime, compiled."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler for the fake CUDA runtime")
    path = tmp_path_factory.mktemp("cudart") / "libcudart.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", path, FAKES / "fake_cudart.c"], check=True)
    return path


@pytest.fixture
def cudart(cudart_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The fake CUDA runtime as the only one on this machine; what a test leaves allocated is a failure."""
    library = ctypes.CDLL(str(cudart_path))
    monkeypatch.setattr(cuda, "candidates", lambda: [str(cudart_path)])
    cuda.open_cuda.cache_clear()
    yield library
    cuda.open_cuda.cache_clear()
    library.fake_set_gpus(1)
    library.fake_fail_after(-1)
    assert library.fake_live() == 0


@pytest.fixture
def install_tensorrt(cudart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Puts the fake module of a release in the place of `tensorrt`, with an engine cache of the test's own."""
    # The tests are no package, so the module is loaded from its file.
    spec = importlib.util.spec_from_file_location("fake_tensorrt", FAKES / "fake_tensorrt.py")
    assert spec is not None
    assert spec.loader is not None
    fake = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fake)
    monkeypatch.setenv("REIDGE_CACHE", str(tmp_path / "cache"))

    def install(version: str) -> Any:
        module = fake.FakeTensorRT(version, cudart)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        return module

    return install
