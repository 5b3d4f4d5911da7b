"""One decoded picture of one camera, with the time it belongs to."""

# H, W = height and width

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Clock = Literal["camera", "arrival", "file"]
"""What `captured_at` follows: the spacing of the camera's own clock, the arrival of packets, or the recording."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # arrays have no one truth to compare by
class Frame:
    """What a stream hands to the pipeline."""

    camid: str
    index: int
    """Position in the source, from 0; frames that were skipped are counted too."""
    captured_at: float
    """Seconds since the epoch, UTC; `clock` says what they follow. Never runs backwards while a camera is up."""
    decoded_at: float
    """Seconds of `time.monotonic()` when the image was ready; masks were painted by then."""
    image: NDArray[np.uint8]
    """`(H, W, 3)`, BGR, with the camera's masks painted over."""
    arrived_at: float = 0.0
    """Seconds of `time.monotonic()` when its last packet was read. Latency counts from here; decoding took
    `decoded_at - arrived_at`."""
    clock: Clock = "file"
