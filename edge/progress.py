"""Progress of long work: a bar on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, NoReturn

from tqdm import tqdm

from reidge.edge.log import tell

if TYPE_CHECKING:
    from types import TracebackType

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts units of work towards a total; use it in a `with`.

    Args:
        label: What is going on, e.g. `"harvest"`.
        total: Units of work in all, or None where it is not known.
        unit: Plural name of what is counted, e.g. `"frames"`.
        quiet: Whether to count without a word, as all but one of several processes do.
    """

    def __init__(self, label: str, *, total: int | None = None, unit: str = "steps", quiet: bool = False) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.quiet = quiet
        self.done = 0
        self._note = ""
        self._started = self._said = time.monotonic()
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> Progress:
        self._started = self._said = time.monotonic()
        if sys.stderr.isatty() and not self.quiet:
            self._bar = tqdm(total=self.total, desc=self.label, unit=f" {self.unit}", leave=True, file=sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._line("done")

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Count `units` more as done; `note` (e.g. the current loss) is shown beside the count."""
        self.done += units
        self._note = self._note if note is None else note
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(units)
        elif time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._line("")

    def _line(self, state: str) -> None:
        if self.quiet:
            return
        self._said = time.monotonic()
        of = "" if self.total is None else f"/{self.total}"
        tail = "".join(f", {part}" for part in (self._note, state) if part)
        tell(f"{self.label}: {self.done}{of} {self.unit}, {self._said - self._started:.0f} s{tail}")
