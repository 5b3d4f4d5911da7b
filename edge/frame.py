"""One decoded picture of one camera, with the time it belongs to."""

# H, W = height and width

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What a stream hands to the pipeline."""

    camid: str
    index: int
    """Position in the source, from 0; frames that were skipped are counted too."""
    captured_at: float
    """Seconds since the epoch, UTC: start + presentation time for files, time of decoding for live streams."""
    decoded_at: float
    """Seconds of `time.monotonic()` when decoding ended; latency is measured from here."""
    image: NDArray[np.uint8]
    """`(H, W, 3)`, BGR."""
