"""Which backends this machine has, found out without importing a runtime or touching a GPU."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Literal, get_args

Backend = Literal["tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "onnxruntime"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
"""The preferred one first."""
GPU_BACKENDS: tuple[Backend, ...] = ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt")
GPU_FILES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg")
"""Of the driver of NVIDIA cards, of Jetsons (two generations) and of Windows' Linux; none without a GPU."""
REMEDY = "See what to install with: reidge doctor"
"""It knows what is here already and must make way, and where packages come from."""
ADVICE: dict[Backend, str] = {
    "tensorrt": f"On a Jetson it comes with JetPack. {REMEDY}",
    "onnxruntime-cuda": f"onnxruntime-gpu takes its place. {REMEDY}",
    "onnxruntime-tensorrt": f"onnxruntime-gpu takes its place. {REMEDY}",
    "openvino": REMEDY,
    "onnxruntime": REMEDY,
}


def absence(backend: Backend) -> str | None:
    """Say in a line why a backend cannot be used here; None where it can, as far as files tell."""
    package, _, provider = backend.partition("-")
    spec = importlib.util.find_spec(package)
    if spec is None:
        return f"the Python package {package} is not installed. {ADVICE[backend]}"
    if provider and not has_provider(spec.origin, provider):
        return f"this build of ONNX Runtime lacks its {provider} provider. {ADVICE[backend]}"
    if backend in GPU_BACKENDS and not has_gpu():
        return "no NVIDIA GPU was found. Check the driver with: nvidia-smi"
    return None


def has_gpu() -> bool:
    """Whether a driver of an NVIDIA GPU is loaded, and the GPU not hidden by `CUDA_VISIBLE_DEVICES`."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return any(Path(name).exists() for name in GPU_FILES)


def has_provider(package: str | None, provider: str) -> bool:
    """Whether ONNX Runtime was built with a provider; each is a library of its own beside the Python package."""
    if package is None:
        return False
    return any((Path(package).parent / "capi").glob(f"*onnxruntime_providers_{provider}.*"))
