"""Hands on to the cameras what the governor has ruled, so that their frames do not all come at once."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Rates:
    """Gives cameras a new rate; what was ruled last wins.

    Args:
        set_rate: Gives one camera, by name, so many frames per second at most, None without limit. It raises KeyError
            where there is no such camera.
    """

    def __init__(self, set_rate: Callable[[str, float | None], None]) -> None:
        self._set_rate = set_rate
        self._setting = threading.Lock()
        self._overruled = threading.Event()

    def spread(self, camids: Sequence[str], rate: float | None) -> None:
        """Tell one camera after the other, over the time from one frame to the next, in a thread for that alone.

        Began all at once, all their frames would come at once from then on, and each would wait for the others.
        """
        with self._setting:  # whoever still spreads another rate sets it before, or not at all
            self._overruled.set()
            self._overruled = threading.Event()
        step = 0.0 if rate is None else 1 / rate / len(camids)
        threading.Thread(
            target=self._tell, args=(tuple(camids), rate, step, self._overruled), name="rates", daemon=True
        ).start()

    def _tell(self, camids: Sequence[str], rate: float | None, step: float, overruled: threading.Event) -> None:
        for camid in camids:
            with self._setting:
                if overruled.is_set():
                    return
                with suppress(KeyError):  # the camera was removed meanwhile
                    self._set_rate(camid, rate)
            overruled.wait(step)
