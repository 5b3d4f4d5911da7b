"""ONNX -> TensorRT engine, on the device that will run it: from the cache, else built and kept there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reidge.edge.bundle import MANIFEST_NAME, BundleError
from reidge.edge.cuda import open_cuda
from reidge.edge.engine_builder import EngineError, build_engine, load_tensorrt, with_half
from reidge.edge.engine_cache import EngineCache, EngineKey, EngineOptions, machine_of, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine of this machine, ready to be loaded."""

    plan: bytes
    key: EngineKey
    path: Path
    """Where it is kept."""
    built: bool
    """Whether it was built just now."""


def obtain_engine(
    onnx_path: Path, cache: EngineCache, options: EngineOptions | None = None, *, rebuild: bool = False
) -> Engine:
    """Take the engine of a graph from the cache, or build it, which takes minutes.

    Args:
        onnx_path: A float graph, or one with explicit Q/DQ pairs.
        cache: Where engines of this machine are kept.
        options: None takes those last chosen for this graph on this machine, else the usual ones.
        rebuild: Whether to build it although it is there.

    Raises:
        EngineError: TensorRT is missing or cannot build it.
        CudaError: There is no GPU.
        BundleError: The graph cannot be read.
        ReidgeError: The cache cannot be used.
    """
    tensorrt = load_tensorrt()
    graph = read_graph(onnx_path)
    sha256 = hashlib.sha256(graph).hexdigest()
    key = key_of(tensorrt, sha256, options or cache.options_for(sha256) or usual_options(onnx_path))
    stamp = cache.stamp(key)
    plan = None if rebuild else cache.load(key)
    built = False
    if plan is None:
        with cache.lock(key):
            if cache.stamp(key) != stamp:  # another process has built it while this one waited
                plan = cache.load(key)
            if plan is None:
                plan, built = build_into(cache, key, tensorrt, graph, onnx_path), True
    return Engine(plan=plan, key=key, path=cache.engine_path(key), built=built)


def build_into(cache: EngineCache, key: EngineKey, tensorrt: Any, graph: bytes, onnx_path: Path) -> bytes:
    """Build an engine and keep it, with the timings that make the next build shorter."""
    cache.require_room(len(graph))
    say(f"building an engine of {onnx_path} for {key.gpu}; this takes minutes, once.")
    plan, timing = build_engine(tensorrt, graph, key.options, timing=cache.load_timing(key))
    if timing:
        cache.store_timing(key, timing)
    cache.store(key, plan)
    return plan


def usual_options(onnx_path: Path) -> EngineOptions:
    """What an engine is built for where nobody says: many crops at a time, or one frame."""
    return EngineOptions(best_batch=1, max_batch=1) if is_detector(onnx_path.parent) else EngineOptions()


def is_detector(bundle: Path) -> bool:
    """Whether a bundle says of itself that it is a detector's."""
    try:
        content = json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False  # whoever loads the bundle says what is wrong with it
    return isinstance(content, dict) and content.get("kind") == "detector"


def read_graph(path: Path) -> bytes:
    """Read an ONNX file.

    Raises:
        BundleError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}. Copy the bundle again.") from error


def key_of(tensorrt: Any, onnx_sha256: str, options: EngineOptions) -> EngineKey:
    """What the engine of a graph depends on here."""
    gpu = open_cuda().gpu()
    return EngineKey(
        onnx_sha256=onnx_sha256,
        tensorrt=str(tensorrt.__version__),
        gpu=gpu.name,
        capability=gpu.capability,
        multiprocessors=gpu.multiprocessors,
        machine=machine_of(),
        options=options,
    )


def write_half(onnx_path: Path) -> Path:
    """Write a graph with FP16 in it into the engine cache, for tools that take their types from there."""
    graph = read_graph(onnx_path)
    return EngineCache().write_graph(f"{hashlib.sha256(graph).hexdigest()[:32]}.half.onnx", with_half(graph))


def has_fixed_batch(onnx_path: Path) -> bool:
    """Whether a graph takes batches of one size only, as some foreign detectors do.

    Raises:
        EngineError: The package that reads the graph is absent.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise EngineError(f"reading {onnx_path} takes the package onnx. Install it: pip install onnx") from error
    batch = onnx.load(onnx_path).graph.input[0].type.tensor_type.shape.dim[0]
    return bool(batch.dim_value)


def trtexec_command(
    onnx_path: Path,
    options: EngineOptions,
    *,
    name: str,
    shape: Sequence[int],
    int8: bool,
    major: int,
    fixed_batch: bool = False,
) -> list[str]:
    """The `trtexec` call that builds and times an engine by the same options.

    Up to TensorRT 10 it pins no layer to FP32, as `build_engine` does: what it saves is as fast, and may overflow.

    Args:
        onnx_path: The graph; for TensorRT 11 with FP16 the one that `bake_half` wrote.
        options: How to build it.
        name: Of the input.
        shape: Of one image.
        int8: Whether the graph has Q/DQ pairs.
        major: Version of TensorRT.
        fixed_batch: Whether the graph takes one batch size only, for which trtexec refuses to be told any.
    """
    each = "x".join(map(str, shape))
    batches = {"min": options.min_batch, "opt": options.best_batch, "max": options.max_batch}
    command = ["trtexec", f"--onnx={onnx_path}", f"--saveEngine={onnx_path.with_suffix('.engine').name}"]
    if not fixed_batch:
        command += [f"--{which}Shapes={name}:{batch}x{each}" for which, batch in batches.items()]
    if major < 11:
        command += ["--int8"] * int8 + ["--fp16"] * options.half
    if options.workspace_mib is not None:
        command.append(f"--memPoolSize=workspace:{options.workspace_mib}")
    if options.level is not None:
        command.append(f"--builderOptimizationLevel={options.level}")
    if options.dla_core is not None:
        command += [f"--useDLACore={options.dla_core}", "--allowGPUFallback"]
    return command
