"""Streams that cost nothing to serve: encoded once, kept as access units."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import av

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

Codec = Literal["h264", "h265", "mjpeg"]
ENCODERS: dict[Codec, str] = {"h264": "libx264", "h265": "libx265", "mjpeg": "mjpeg"}


def write_stream(
    path: Path, images: Iterable[NDArray[np.uint8]], *, fps: int = 10, codec: Codec = "h264", crf: int = 20
) -> Path:
    """Encode BGR images with a key frame each second, and leave `path` (JSON) and its bytes beside it.

    Parameter sets stand before every key frame, so that a reader can begin at any of them and sizes may change.
    """
    units: list[bytes] = []
    encoder: av.VideoCodecContext | None = None
    for number, image in enumerate(images):
        picture = av.VideoFrame.from_ndarray(image, format="bgr24")
        if encoder is None:
            encoder = _open_encoder(codec, picture.width, picture.height, fps=fps, crf=crf)
        picture = picture.reformat(format=encoder.pix_fmt)
        picture.pts, picture.time_base = number, Fraction(1, fps)
        units.extend(bytes(packet) for packet in encoder.encode(picture))
    assert encoder is not None, "a stream needs pictures"
    units.extend(bytes(packet) for packet in encoder.encode(None))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".bin").write_bytes(b"".join(units))
    index = {"codec": codec, "fps": fps, "width": encoder.width, "height": encoder.height}
    path.write_text(json.dumps(index | {"sizes": [len(unit) for unit in units]}))
    return path


def _open_encoder(codec: Codec, width: int, height: int, *, fps: int, crf: int) -> av.VideoCodecContext:
    encoder = av.CodecContext.create(ENCODERS[codec], "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.framerate, encoder.time_base = width, height, Fraction(fps), Fraction(1, fps)
    encoder.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    encoder.thread_count = 1
    every_second = f"keyint={fps}:min-keyint={fps}:scenecut=0:bframes=0:repeat-headers=1"
    quick = {"preset": "ultrafast", "tune": "zerolatency", "crf": str(crf)}
    encoder.options = {
        "h264": quick | {"x264-params": every_second},
        "h265": quick | {"x265-params": f"{every_second}:log-level=none:pools=none:frame-threads=1"},
        # RTP's JPEG knows only the standard tables.
        "mjpeg": {"huffman": "default", "qmin": "4", "qmax": "4"},
    }[codec]
    return encoder
