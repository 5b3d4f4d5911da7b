"""A foreign detector -> a graph that takes frames as they are and gives people, whatever family it is of.

What is folded in: colours and scale as the network wants them before it, the decoding of its boxes after it. All of it
is arithmetic with constants, which every runtime knows.
"""

# N = frames, H, W = input height and width, A = candidate boxes, C = numbers a candidate

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from reidge.edge.backends.onnxruntime import LOG_ERRORS
from reidge.edge.detectors.letterbox import GREY
from reidge.edge.detectors.yolox import make_grid
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.detector_bundle import Channels, Family

OPSET = 17
IR_VERSION = 8
"""The newest that TensorRT 8.6 and onnxruntime 1.19 both read."""
INPUT_NAME = "frames"
OUTPUT_NAME = "people"
BOX = 4
MAX_LOG_SIDE = 10.0
MAX_SHARE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How the network itself wants its pictures."""

    channels: Channels
    mean: tuple[float, float, float]
    """Subtracted, in that order of channels, of values from 0 to 255."""
    std: tuple[float, float, float]
    """Divided by after that."""


PREPROCESSING: dict[Family, Preprocessing] = {
    "yolox": Preprocessing(channels="bgr", mean=(0, 0, 0), std=(1, 1, 1)),
    "rtdetr": Preprocessing(channels="rgb", mean=(0, 0, 0), std=(255, 255, 255)),
}
"""As the authors of each family trained it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What a foreign graph turned out to be."""

    family: Family
    size: tuple[int, int]
    """Height and width of its input."""
    candidates: int
    boxes: str
    """Output with the boxes; for YOLOX and for a joined RT-DETR output also with the scores."""
    scores: str
    first_class: int
    """Column of the first class in `scores`."""
    classes: int
    logits: bool
    """Whether scores have yet to go through a sigmoid."""


def read_detector(path: Path) -> onnx.ModelProto:
    """Read a detector and bring it to opset 17, every node named and every constant an initializer.

    Raises:
        InputError: It is missing, damaged, of a newer opset, or takes anything but float pictures of one fixed size.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file. Give the path of a YOLOX or RT-DETR ONNX file.")
    try:
        model = onnx.load(path)
        opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if opset < OPSET:
            model = onnx.version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, checker and converter have their own kinds
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not a readable ONNX file ({reason}). Copy or export it again.") from error
    if opset > OPSET:
        raise InputError(f"{path} is of opset {opset}, TensorRT 8.6 reads up to {OPSET}. Export it at opset {OPSET}.")
    model.ir_version = IR_VERSION
    tidy(model)
    check_input(model, path)
    return model


def tidy(model: onnx.ModelProto) -> None:
    """Name every node, turn Constant nodes into initializers, and drop initializers from the inputs, in place."""
    graph = model.graph
    kept, taken = [], set()
    for node in graph.node:
        value = next((entry.t for entry in node.attribute if entry.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensor = TensorProto()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
            continue
        # Each node is a block of its own: the paths in names of newer exporters would make one of the whole backbone.
        name = (node.name or f"{node.op_type}_{node.output[0]}").strip("/").replace("/", ".")
        while name in taken:
            name += "_"
        taken.add(name)
        node.name = name
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.value_info[:]  # found anew, since the new input makes some of it untrue


def check_input(model: onnx.ModelProto, path: Path) -> None:
    """Refuse what is no float picture of one fixed size.

    Raises:
        InputError: One line that says what it is and what to export instead.
    """
    if len(model.graph.input) != 1:
        names = ", ".join(value.name for value in model.graph.input)
        raise InputError(f"{path} has the inputs {names}, one picture is expected. Export it without post-processing.")
    tensor = model.graph.input[0].type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.elem_type != TensorProto.FLOAT or len(shape) != 4 or shape[1] != 3 or min(shape[2:]) == 0:
        raise InputError(
            f"{path} takes {TensorProto.DataType.Name(tensor.elem_type)} {shape}, expected is a FLOAT picture "
            "(N, 3, H, W) of a fixed size. Export it again."
        )


def examine(model: onnx.ModelProto, path: Path, family: Family | Literal["auto"] = "auto") -> Anatomy:
    """Find out what a detector gives, by running it once on grey; `family` decides nothing, it only refuses others.

    Raises:
        InputError: It does not run, or is of no family that is known here, or not of the one that was said.
    """
    source = model.graph.input[0]
    height, width = (dim.dim_value for dim in source.type.tensor_type.shape.dim[2:])
    picture = np.full((1, 3, height, width), GREY, dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_ERRORS
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = session.run(None, {source.name: picture})
    except Exception as error:  # its exceptions share no public base class
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} does not run on a picture ({reason}). Export it again.") from error
    found = {output.name: value for output, value in zip(session.get_outputs(), values, strict=True)}
    anatomy = recognise(found, (height, width))
    if anatomy is None or family not in ("auto", anatomy.family):
        shapes = ", ".join(f"{name} {value.shape}" for name, value in found.items())
        known = "YOLOX without decoding in the graph or RT-DETR" if family == "auto" else family
        raise InputError(f"{path} is not a {known}: it gives {shapes}. Export it with its raw outputs.")
    return anatomy


def recognise(found: dict[str, NDArray[Any]], size: tuple[int, int]) -> Anatomy | None:
    """Tell a family by the shapes of its outputs; None for any other."""
    if any(value.ndim != 3 or value.shape[0] != 1 for value in found.values()):
        return None
    if len(found) == 1:
        ((name, value),) = found.items()
        _, candidates, columns = value.shape
        if candidates == len(make_grid(size)[0]) and columns > BOX + 1:
            family: Family = "yolox"
            first = BOX + 1
        elif columns > BOX:
            family, first = "rtdetr", BOX
        else:
            return None
        boxes = scores = name
    else:
        boxes = next((name for name, value in found.items() if value.shape[2] == BOX), "")
        scores = next((name for name in found if name != boxes), "")
        if len(found) != 2 or not boxes or found[boxes].shape[1] != found[scores].shape[1]:
            return None
        family, first = "rtdetr", 0
    values = found[scores][:, :, first:]
    logits = bool(values.min() < 0 or values.max() > 1)
    sides = found[boxes][:, :, 2:BOX]
    # YOLOX ends in a sigmoid; sides of e^10 cells, or beyond the picture, are in pixels: decoded by the graph itself.
    if sides.max() > (MAX_LOG_SIDE if family == "yolox" else MAX_SHARE) or (family == "yolox" and logits):
        return None
    return Anatomy(
        family=family,
        size=size,
        candidates=values.shape[1],
        boxes=boxes,
        scores=scores,
        first_class=first,
        classes=values.shape[2],
        logits=logits,
    )


def fold(model: onnx.ModelProto, anatomy: Anatomy, preprocessing: Preprocessing, *, person_class: int) -> None:
    """Put preprocessing before a detector and decoding after it, in place.

    Raises:
        InputError: The person is none of its classes.
    """
    if not 0 <= person_class < anatomy.classes:
        raise InputError(f"the person class is {person_class}, the detector has {anatomy.classes} classes, from 0.")
    writer = Writer()
    source = model.graph.input[0]
    prepare(writer, source.name, preprocessing)
    before = writer.take()
    (decode_yolox if anatomy.family == "yolox" else decode_rtdetr)(writer, anatomy, anatomy.first_class + person_class)
    nodes = [*before, *model.graph.node, *writer.take()]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(writer.constants)
    batch = source.type.tensor_type.shape.dim[0]
    count = batch.dim_value or batch.dim_param or "N"
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.append(
        helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, [count, *anatomy.size, 3]),
    )
    people = [count, anatomy.candidates, BOX + 1]
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, people))
    onnx.checker.check_model(model, full_check=True)


class Writer:
    """Makes nodes and their constants under names of their own."""

    def __init__(self) -> None:
        self.constants: list[TensorProto] = []
        self._nodes: list[onnx.NodeProto] = []

    def take(self) -> list[onnx.NodeProto]:
        """The nodes made since the last call."""
        nodes, self._nodes = self._nodes, []
        return nodes

    def constant(self, value: object, kind: type[np.generic] = np.float32) -> str:
        """Make a constant and return its name."""
        name = f"reidge/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=kind), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Make a node and return its output."""
        self._nodes.append(helper.make_node(kind, inputs, [output], name=f"reidge/{kind}_{output}", **attributes))
        return output

    def columns(self, source: str, first: int, last: int, output: str) -> str:
        """Take columns of `(N, A, C)`."""
        bounds = [self.constant([value], np.int64) for value in (first, last, 2)]
        return self.node("Slice", [source, *bounds], output)


def prepare(writer: Writer, target: str, preprocessing: Preprocessing) -> None:
    """uint8 `(N, H, W, 3)` BGR -> what the network wants."""
    name = writer.node("Cast", [INPUT_NAME], "reidge/float", to=TensorProto.FLOAT)
    if preprocessing.channels == "rgb":
        name = writer.node("Gather", [name, writer.constant([2, 1, 0], np.int64)], "reidge/rgb", axis=3)
    if any(preprocessing.mean):
        name = writer.node("Sub", [name, writer.constant(preprocessing.mean)], "reidge/centred")
    if preprocessing.std != (1, 1, 1):
        name = writer.node("Mul", [name, writer.constant(1 / np.array(preprocessing.std))], "reidge/scaled")
    writer.node("Transpose", [name], target, perm=[0, 3, 1, 2])


def decode_yolox(writer: Writer, anatomy: Anatomy, column: int) -> None:
    """Offsets in a cell and logarithms of sides -> corners; objectness times class -> score."""
    grid_A2, stride_A1 = make_grid(anatomy.size)
    raw = anatomy.boxes
    stride = writer.constant(stride_A1)
    offsets = writer.columns(raw, 0, 2, "reidge/offsets")
    placed = writer.node("Add", [offsets, writer.constant(grid_A2)], "reidge/placed")
    centres = writer.node("Mul", [placed, stride], "reidge/centres")
    logs = writer.columns(raw, 2, 4, "reidge/logs")
    sides = writer.node("Mul", [writer.node("Exp", [logs], "reidge/cells"), stride], "reidge/sides")
    objectness = writer.columns(raw, 4, 5, "reidge/objectness")
    person = writer.columns(raw, column, column + 1, "reidge/person")
    join(writer, centres, sides, writer.node("Mul", [objectness, person], "reidge/score"))


def decode_rtdetr(writer: Writer, anatomy: Anatomy, column: int) -> None:
    """Centres and sides as shares of the picture -> corners in pixels."""
    height, width = anatomy.size
    extent = writer.constant([width, height])
    centre_shares = writer.columns(anatomy.boxes, 0, 2, "reidge/centre_shares")
    side_shares = writer.columns(anatomy.boxes, 2, 4, "reidge/side_shares")
    centres = writer.node("Mul", [centre_shares, extent], "reidge/centres")
    sides = writer.node("Mul", [side_shares, extent], "reidge/sides")
    score = writer.columns(anatomy.scores, column, column + 1, "reidge/person")
    if anatomy.logits:
        score = writer.node("Sigmoid", [score], "reidge/score")
    join(writer, centres, sides, score)


def join(writer: Writer, centres: str, sides: str, score: str) -> None:
    """Centres, sides and scores -> `(N, A, 5)`."""
    halves = writer.node("Mul", [sides, writer.constant(0.5)], "reidge/halves")
    low = writer.node("Sub", [centres, halves], "reidge/low")
    high = writer.node("Add", [centres, halves], "reidge/high")
    writer.node("Concat", [low, high, score], OUTPUT_NAME, axis=2)
