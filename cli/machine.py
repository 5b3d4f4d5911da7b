"""What the machine is: processor, memory, GPU and the GStreamer elements, read without importing any package."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

INT8_FLAGS = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
"""What decides the speed of INT8 on a CPU, by its name in /proc/cpuinfo; the last two are ARM's."""
GSTREAMER_ELEMENTS = ("rtspsrc", "avdec_h264", "avdec_h265", "nvv4l2decoder", "vah264dec", "appsink")
TOOL_SECONDS = 20.0


def first_line(path: str) -> str | None:
    """Read the first line of a file of the kernel; None where there is no such file."""
    try:
        return Path(path).read_text(errors="replace").rstrip("\0\n").split("\n")[0].strip()
    except OSError:
        return None


def output_of(*command: str) -> str | None:
    """Run a tool and return what it printed; None where it is absent, fails or does not end."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def describe_system() -> dict[str, Any]:
    """Name the operating system and the Python that runs."""
    return {"python": platform.python_version(), "system": platform.system(), "release": platform.release()}


def describe_cpu() -> dict[str, Any]:
    """Name the processor, the cores this process may use and the instructions that make INT8 fast."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": platform.machine(),
        "model": model[1] if model else first_line("/proc/device-tree/model") or platform.processor() or "unknown",
        "cores": usable,
        "int8_instructions": [flag for flag in INT8_FLAGS if flag in present],
    }


def describe_memory() -> dict[str, Any]:
    """Read total and available memory in GiB, and the limit of the container where one is set."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return {}
    kib = {name: int(amount) for name, amount in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    figures = {
        "total_gib": round(kib["MemTotal"] / 2**20, 1),
        "available_gib": round(kib["MemAvailable"] / 2**20, 1),
    }
    limit = first_line("/sys/fs/cgroup/memory.max")
    if limit is not None and limit.isdecimal():
        figures["container_limit_gib"] = round(int(limit) / 2**30, 1)
    return figures


def describe_gpus() -> list[dict[str, Any]]:
    """List NVIDIA GPUs by `nvidia-smi`, and a Jetson by the file of its Linux for Tegra."""
    gpus: list[dict[str, Any]] = []
    columns = "name,memory.total,driver_version,compute_cap"
    for line in (output_of("nvidia-smi", f"--query-gpu={columns}", "--format=csv,noheader") or "").splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) == 4:
            gpus.append(dict(zip(("name", "memory", "driver", "compute_capability"), values, strict=True)))
    tegra = first_line("/etc/nv_tegra_release")
    if tegra is not None:
        gpus.append({"name": first_line("/proc/device-tree/model") or "NVIDIA Jetson", "linux_for_tegra": tegra})
    return gpus


def describe_gstreamer() -> dict[str, Any]:
    """Name the version of GStreamer's tools and which of the elements a camera pipeline uses are there."""
    version = output_of("gst-inspect-1.0", "--version")
    if version is None:
        return {"installed": False}
    found = [name for name in GSTREAMER_ELEMENTS if output_of("gst-inspect-1.0", "--exists", name) is not None]
    return {"installed": True, "version": version.splitlines()[0].split()[-1], "elements": found}
