"""One small encoder, one crop folder and one bundle for all tests of the package."""

# N = crops, H, W = input height and width

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from reidge.edge.crops import CropRecord, CropWriter
from reidge.export.bundle import ExportReport, export_bundle
from reidge.train.encoders import build_encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from reidge.train.encoders.encoder import Encoder

PEOPLE = 12
CROPS_EACH = 8


def draw_person(rng: np.random.Generator, pid: int) -> NDArray[np.uint8]:
    """A crop with a shirt and trousers of the person's own colours, under noise, a few pixels off as in life."""
    colours = np.random.default_rng(pid).integers(30, 226, (2, 3))
    image = np.full((90, 44, 3), 120, dtype=np.int16)
    image[15:50, 10:34] = colours[0]
    image[50:85, 12:32] = colours[1]
    image = np.roll(image, rng.integers(-4, 5, 2), axis=(0, 1))
    noisy: NDArray[np.uint8] = np.clip(image + rng.integers(-25, 26, image.shape), 0, 255).astype(np.uint8)
    return noisy


def write_people(root: Path, *, people: int, crops_each: int) -> Path:
    """A crop folder of two cameras where two people at a time are in view of each."""
    rng = np.random.default_rng(0)
    with CropWriter(root) as writer:
        for pid in range(people):
            for shot in range(crops_each):
                x1 = 200.0 * (pid // 2 % 2)
                record = CropRecord(
                    path=f"{pid:02d}/{shot}.jpg",
                    camid=f"cam{pid % 2}",
                    tracklet=f"t{pid}",
                    captured_at=1e9 + 100 * (pid // 4) + shot,
                    x1=x1,
                    y1=0,
                    x2=x1 + 44,
                    y2=90,
                    score=1,
                    sharpness=1,
                )
                writer.add(draw_person(rng, pid), record)
    return root


@pytest.fixture(scope="session")
def small_encoder() -> Encoder:
    """The small network with random weights, for 64x32 crops."""
    torch.manual_seed(0)
    return build_encoder("small", input_size=(64, 32)).eval()


@pytest.fixture(scope="session")
def crop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 crops of 12 people."""
    return write_people(tmp_path_factory.mktemp("crops") / "crops", people=PEOPLE, crops_each=CROPS_EACH)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, small_encoder: Encoder, crop_folder: Path) -> ExportReport:
    """A bundle of the small encoder; tests must leave it as it is."""
    output = tmp_path_factory.mktemp("bundle") / "bundle"
    return export_bundle(small_encoder, crop_folder, output, source="tests", recipe={"name": "quick"}, threads=1)


@pytest.fixture
def two_blocks() -> ModelProto:
    """A 3x3 convolution of 3 -> 16 channels at stride 2, then one of 16 -> 16 in 16 groups."""
    stem, deep = np.ones((16, 3, 3, 3), dtype=np.float32), np.ones((16, 1, 3, 3), dtype=np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["y"], name="/body/stem/Conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["y", "deep"], ["z"], name="/body/deep/Conv", group=16, pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 16, 4, 2])],
        [numpy_helper.from_array(stem, "stem"), numpy_helper.from_array(deep, "deep")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared weights and media, beside the repository."""
    folder = Path(__file__).parents[2].parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with published weights is absent")
    return folder


@pytest.fixture
def write_crops() -> Callable[[Path], Path]:
    """Writes 8 crops each of 4 people to a new crop folder, for tests that spoil it."""
    return partial(write_people, people=4, crops_each=CROPS_EACH)


@pytest.fixture
def write_golden_crops(shared: Path) -> Callable[[Path], Path]:
    """Writes the crops of the published golden file as a crop folder of four tracklets."""

    def write(root: Path) -> Path:
        with np.load(shared / "weights/osnet_x0_25_msmt17_golden.npz") as golden, CropWriter(root) as writer:
            for index, crop_HW3 in enumerate(golden["crops_bgr_uint8"]):
                record = CropRecord(
                    path=f"{index}.jpg",
                    camid="cam1",
                    tracklet=f"t{index // 4}",
                    captured_at=1e9 + index,
                    x1=0,
                    y1=0,
                    x2=128,
                    y2=256,
                    score=1,
                    sharpness=1,
                )
                writer.add(crop_HW3, record)
        return root

    return write


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRT:
    """The ahead-of-time builder of TensorRT for RTX."""

    module: Any
    builder: Any
    logger: Any

    def layers(self, graph: bytes) -> list[tuple[Any, str]]:
        """Kind and name of each layer that the parser makes of a graph."""
        network = self.builder.create_network(0)
        assert self.module.OnnxParser(network, self.logger).parse(graph)
        layers = (network.get_layer(index) for index in range(network.num_layers))
        return [(layer.type, layer.name) for layer in layers]

    def verdict(self, graph: bytes) -> str:
        """`accepted`, or what the parser or builder says against a graph."""
        trt, errors = self.module, self.logger.errors
        errors.clear()
        network = self.builder.create_network(0)
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse(graph):
            return f"the parser: {parser.get_error(0).desc()}"
        config = self.builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        source = network.get_input(0)
        profile = self.builder.create_optimization_profile()
        profile.set_shape(source.name, *((batch, *tuple(source.shape)[1:]) for batch in (1, 8, 16)))
        config.add_optimization_profile(profile)
        plan = self.builder.build_serialized_network(network, config)
        return "accepted" if plan is not None else f"the builder: {'; '.join(errors)}"


@pytest.fixture(scope="session")
def tensorrt() -> TensorRT:
    """The builder; skips where its wheels are absent."""
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="the wheels of TensorRT for RTX are absent here")

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    logger = Logger()
    return TensorRT(module=trt, builder=trt.Builder(logger), logger=logger)
