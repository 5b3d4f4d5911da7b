"""Decoders of this machine's graphics hardware, as far as FFmpeg can use them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.codec.hwaccel import HWAccel

CODECS = ("h264", "hevc")
"""What hardware has to decode to be of use."""
OPTIONS: dict[str, dict[str, object]] = {"cuda": {"primary_ctx": "1"}}
"""One context of CUDA for all cameras: each of its own takes some hundred MB of memory."""


@cache
def working_device() -> str | None:
    """Name the kind of device that decodes here, by opening a decoder on it; None where there is none.

    What FFmpeg was built for says nothing about the machine, and pictures come back to main memory in any case.
    """
    try:
        import av
        from av.codec.hwaccel import hwdevices_available
    except ImportError:  # PyAV before 14
        return None
    for kind in hwdevices_available():
        wanted = [
            any(
                config.device_type.name == kind and config.is_supported
                for config in av.Codec(name, "r").hardware_configs
            )
            for name in CODECS
        ]
        if not all(wanted):
            continue
        try:
            for name in CODECS:
                av.CodecContext.create(name, "r", hwaccel=_accelerator(kind, fallback=False))
        except (av.FFmpegError, OSError, RuntimeError, ValueError):
            continue
        return kind
    return None


def open_options(decode: str) -> dict[str, Any]:
    """What `av.open` needs besides to decode as wanted: `auto`, `software` or `hardware`."""
    kind = None if decode == "software" else working_device()
    return {} if kind is None else {"hwaccel": _accelerator(kind, fallback=decode == "auto")}


def _accelerator(kind: str, *, fallback: bool) -> HWAccel:
    from av.codec.hwaccel import HWAccel

    return HWAccel(kind, options=OPTIONS.get(kind, {}), allow_software_fallback=fallback)
