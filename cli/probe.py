"""What a Python package offers here, found out in a process of its own.

Importing is the only honest test of a package with native code, and it can end the process: an illegal
instruction, a missing driver, two OpenMP runtimes. So each package is imported by a child, and whatever
befalls the child is a finding of one line.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

IMPORT_SECONDS = 120.0
CAMERA_CODECS = ("h264", "hevc", "mjpeg")


def probe(module: str) -> dict[str, Any]:
    """Import `module` in a child process and describe it.

    Returns:
        `version` and what the package offers, or `missing`, or `error` with one line.
    """
    try:
        if importlib.util.find_spec(module) is None:
            return {"missing": True}
    except (ImportError, ValueError) as error:
        return {"error": one_line(error)}
    # From the root folder, so that nothing in the user's current folder is imported by mistake.
    command = [sys.executable, "-c", "import sys; from reidge.cli.probe import tell; tell(sys.argv[1])", module]
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=IMPORT_SECONDS, cwd=os.sep
        )
    except subprocess.TimeoutExpired:
        return {"error": f"importing it takes longer than {IMPORT_SECONDS:.0f} s"}
    if child.returncode < 0:
        return {"error": f"importing it ends the process: {signal.Signals(-child.returncode).name}"}
    with contextlib.suppress(ValueError, IndexError):
        return dict(json.loads(child.stdout.splitlines()[-1]))
    last = child.stderr.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
    return {"error": f"importing it fails: {last[0]}"}


def tell(module: str) -> None:
    """Print the description of `module` as the last line of stdout; this is what the child runs."""
    print(json.dumps(describe(module)), flush=True)
    # Skip the package's clean-up: its crash at exit would hide a good answer.
    os._exit(0)


def describe(module: str) -> dict[str, Any]:
    """Import `module` here and describe it; a failure is described too."""
    try:
        package = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        return {"error": one_line(error)}
    facts: dict[str, Any] = {"version": str(getattr(package, "__version__", None) or installed_version(module))}
    try:
        if module in DETAILS:
            facts |= DETAILS[module](package)
    except Exception as error:
        facts["problem"] = one_line(error)
    return facts


def installed_version(module: str) -> str:
    """The version in the metadata of the distribution that a package came with."""
    names = packages_distributions().get(module, [])
    return version(names[0]) if names else "unknown"


def one_line(error: BaseException) -> str:
    """Say an exception in one line with its kind."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def describe_torch(torch: ModuleType) -> dict[str, Any]:
    """Say for which CUDA torch was built and which GPUs it can use."""
    usable = torch.cuda.is_available()
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if usable else []
    return {"built_for_cuda": torch.version.cuda, "gpus": names}


def describe_onnxruntime(onnxruntime: ModuleType) -> dict[str, Any]:
    """List the execution providers of this build."""
    return {"providers": list(onnxruntime.get_available_providers())}


def describe_openvino(openvino: ModuleType) -> dict[str, Any]:
    """List the devices OpenVINO can run on, and in which number formats it does so fast."""
    core = openvino.Core()
    return {
        "devices": {
            device: {
                "name": core.get_property(device, "FULL_DEVICE_NAME"),
                "formats": list(core.get_property(device, "OPTIMIZATION_CAPABILITIES")),
            }
            for device in core.available_devices
        }
    }


def describe_av(av: ModuleType) -> dict[str, Any]:
    """List the decoders of camera streams, and the hardware decoders that open on this machine."""
    return {
        "decoders": [name for name in CAMERA_CODECS if name in av.codecs_available],
        "hardware_decoders": hardware_decoders(av),
    }


def hardware_decoders(av: ModuleType) -> list[str]:
    """Try to open each kind of hardware decoder FFmpeg was built with; PyAV before 14 offers none."""
    try:
        from av.codec.hwaccel import HWAccel, hwdevices_available
    except ImportError:
        return []
    working = []
    for device in hwdevices_available():
        with contextlib.suppress(Exception):
            HWAccel(device_type=device, allow_software_fallback=False).create(av.Codec("h264", "r"))
            working.append(str(device))
    return working


def describe_cv2(cv2: ModuleType) -> dict[str, Any]:
    """Say which video backends OpenCV was built with."""
    lines = [line.strip() for line in cv2.getBuildInformation().splitlines()]
    built = [line.partition(":")[0] for line in lines if line.startswith(("FFMPEG:", "GStreamer:")) and "YES" in line]
    return {"video_backends": built}


DETAILS: dict[str, Callable[[ModuleType], dict[str, Any]]] = {
    "torch": describe_torch,
    "onnxruntime": describe_onnxruntime,
    "openvino": describe_openvino,
    "av": describe_av,
    "cv2": describe_cv2,
}
