"""How good a candidate for the INT8 graph is: by the runtime of an edge, on held-out crops and a labelled split."""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from reidge.edge.backends import installed_backends, load_runner
from reidge.edge.bundle import Accuracy
from reidge.edge.errors import ReidgeError
from reidge.export.parity import Verdict, compare, embed_with
from reidge.train.evaluate import evaluate_split

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.backends.presence import Backend
    from reidge.edge.bundle import Parity
    from reidge.edge.crops import ResizeMethod
    from reidge.export.parity import Gate
    from reidge.train.datasets import Benchmark


def host_backend() -> Backend:
    """The backend that an edge without a GPU would choose here: an export needs none, and is the same with one."""
    return installed_backends(gpu=False)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSplit:
    """A labelled data set, and how well the float graph ranks it."""

    benchmark: Benchmark
    resize: ResizeMethod
    size: tuple[int, int]
    """Height and width of the encoder's input."""
    threads: int | None

    def score(self, path: Path, backend: Backend) -> Accuracy:
        """Rank the gallery by the embeddings of an ONNX file.

        Raises:
            InputError: An image is unreadable, or no identity spans two cameras.
        """
        runner = load_runner(path, backend, threads=self.threads)
        try:
            ranking = evaluate_split(runner.run, self.benchmark, size=self.size, resize=self.resize)
        finally:
            runner.close()
        return Accuracy(
            mAP=ranking.mAP,
            rank1=ranking.rank1,
            split=self.benchmark.name,
            queries=len(self.benchmark.query),
            gallery=len(self.benchmark.gallery),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeJudge:
    """Runs candidates as an edge would; see `reidge.export.sensitivity.Judge`."""

    crops_NHW3: NDArray[np.uint8]
    """Held out of calibration."""
    reference_ND: NDArray[np.float32]
    """Their embeddings by the trained encoder."""
    path: Path
    """Where candidates are written."""
    gate: Gate
    threads: int | None
    split: LabelledSplit | None = None
    float_accuracy: Accuracy | None = None
    """Of the float graph on the split."""

    def compare(self, candidate: onnx.ModelProto) -> Parity:
        """Compare a candidate with the trained encoder on held-out crops.

        Where the edge's runtime fails on it (see `reidge.edge.backends.guard`), what a block costs is asked of ONNX
        Runtime, which computes the same slowly.
        """
        try:
            found_ND = self._embed(candidate, host_backend())
        except ReidgeError:
            found_ND = self._embed(candidate, "onnxruntime")
        return compare(self.reference_ND, found_ND)

    def judge(self, candidate: onnx.ModelProto) -> Verdict:
        """Hold a candidate against the gate; the labelled split, which takes longest, only where the rest passes."""
        try:
            found_ND = self._embed(candidate, host_backend())
        except ReidgeError:  # a graph that an edge cannot run never passes
            found_ND = np.zeros_like(self.reference_ND)
        parity = compare(self.reference_ND, found_ND)
        if self.split is None or not self.gate.passes(parity):
            return Verdict(parity=parity, checks=self.gate.checks(parity))
        accuracy = self.split.score(self.path, host_backend())
        return Verdict(parity=parity, checks=self.gate.checks(parity, accuracy, self.float_accuracy), accuracy=accuracy)

    def _embed(self, candidate: onnx.ModelProto, backend: Backend) -> NDArray[np.float32]:
        onnx.save(candidate, self.path)
        return embed_with(self.path, self.crops_NHW3, backend=backend, threads=self.threads)
