"""Where pictures come from: one face for every kind of live source, opened by `open_source`."""

# H, W = height and width

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from reidge.edge.camera import CameraConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A decoded picture, not converted yet: under load most of what a camera sends never is."""

    seconds: float | None
    """Presentation time in the source's own clock; None where it has none worth following."""
    arrived_at: float
    """Seconds of `time.monotonic()` when its last packet was read."""
    to_image: Callable[[], NDArray[np.uint8]]
    """Gives `(H, W, 3)` BGR, upright, in memory of its own; before the next picture is asked for.

    Raises:
        Damaged: It could not be decoded.
    """
    waited: bool = True
    """Whether reading had to wait for it; one that lay ready may have others behind it."""


class Damaged(ValueError):
    """A picture could not be decoded; the next one may be."""


class Refused(OSError):
    """The source does not take user and password."""


class Count(Protocol):
    """Takes note of losses."""

    def __call__(self, *, corrupt: int = 0, skipped: int = 0) -> None:
        """Add packets and pictures that were damaged, and packets that were left out to catch up."""


def forget(*, corrupt: int = 0, skipped: int = 0) -> None:
    """Take no note."""


class Source(Protocol):
    """An open source."""

    def pictures(self) -> Iterator[Picture | None]:
        """Give pictures until the source ends; None where something came that was no picture yet.

        Raises:
            OSError: The source was lost, or was silent for longer than its timeout.
            InputError: It carries no video.
        """

    def catch_up(self) -> None:
        """Leave out what lies ready, undecoded, because decoding does not keep up."""


def open_source(
    config: CameraConfig, count: Count = forget, *, patience: float | None = None
) -> AbstractContextManager[Source]:
    """Connect to a live source.

    Args:
        config: What to connect to.
        count: Told what is lost.
        patience: Seconds to wait for an answer, where that is less than the camera's timeout.

    Raises:
        Refused: It does not take user and password.
        OSError: It cannot be reached, or does not answer within its timeout. The libraries' own text may hold the
            address with its password: take `strerror`.
        InputError: It carries no video, or this machine lacks what its reader needs.
    """
    if "://" not in config.source:
        from reidge.edge.sources.devices import open_device

        return open_device(config)
    from reidge.edge.sources.gstreamer import open_gstreamer, prefers_gstreamer

    if prefers_gstreamer(config):
        return open_gstreamer(config, patience)
    from reidge.edge.sources.pyav import open_network

    return open_network(config, count, patience)


def check_source(config: CameraConfig) -> None:
    """Refuse a live source that this machine can never read.

    Raises:
        InputError: One line that says what is missing.
    """
    from reidge.edge.sources.gstreamer import check_gstreamer, prefers_gstreamer
    from reidge.edge.sources.hardware import working_device

    if prefers_gstreamer(config):
        check_gstreamer(config)
    elif config.decode == "hardware" and ("://" not in config.source or working_device() is None):
        raise InputError(f"{config.name}: decode: hardware is not to be had here. Leave it at auto.")
