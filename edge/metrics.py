"""What a run counts and measures: plain numbers inside, published by `exposition` and `web`."""

from __future__ import annotations

import logging
import re
import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from reidge.edge.latency import LatencyHistogram
from reidge.edge.redact import redact_text
from reidge.edge.settings import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Stage = Literal["decode", "wait", "detect", "track", "embed", "match", "emit", "event"]
LabelName = Literal["camid", "output"]
MAX_LABELS = 256
"""Different label values of a run; whatever comes beyond them is one more, named `other`."""
OTHER = "other"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a metric: its name, and the camera or output that it is about, if any."""

    name: str
    label: LabelName | None = None
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All numbers at one moment."""

    counters: Mapping[Series, float]
    gauges: Mapping[Series, float]
    stages: Mapping[tuple[str, str], LatencyHistogram]
    """By stage and camid."""
    about: Mapping[str, str]


class Metrics:
    """Counters, gauges and latencies of one run; any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: defaultdict[Series, float] = defaultdict(float)
        self._gauges: dict[Series, float] = {}
        self._stages: defaultdict[tuple[str, str], LatencyHistogram] = defaultdict(LatencyHistogram)
        self._about: dict[str, str] = {}
        self._labels: dict[str, str] = {}
        self._readers: list[Callable[[Metrics], None]] = []

    def observe(self, stage: Stage, camid: str, seconds: float) -> None:
        """Note how long a stage took for one frame of a camera."""
        with self._lock:
            self._stages[stage, self._label(camid)].add(seconds)

    def count(self, name: str, camid: str | None = None, n: float = 1, *, output: str | None = None) -> None:
        """Add to a counter of the run, of a camera or of an output."""
        with self._lock:
            self._counters[self._series(name, camid, output)] += n

    def total(self, name: str, value: float, camid: str | None = None, *, output: str | None = None) -> None:
        """Set a counter to what was counted elsewhere; it never goes back."""
        with self._lock:
            series = self._series(name, camid, output)
            self._counters[series] = max(self._counters[series], value)

    def gauge(self, name: str, value: float, camid: str | None = None, *, output: str | None = None) -> None:
        """Set what goes up and down."""
        with self._lock:
            self._gauges[self._series(name, camid, output)] = value

    def describe(self, **about: str) -> None:
        """Say what runs here, e.g. `backend="openvino"`; published as labels of `reidge_info`."""
        with self._lock:
            self._about |= {name: redact_text(value) for name, value in about.items()}

    def on_read(self, reader: Callable[[Metrics], None]) -> None:
        """Call `reader` before each reading, for numbers that would be old by then, such as the age of a frame."""
        with self._lock:
            self._readers.append(reader)

    def forget(self, camid: str) -> None:
        """Drop all series of a camera that is no longer part of the site."""
        with self._lock:
            shown = self._labels.pop(camid, None)
            if shown is None or shown == OTHER:
                return
            for numbers in (self._counters, self._gauges):
                for series in [found for found in numbers if (found.label, found.value) == ("camid", shown)]:
                    del numbers[series]
            for key in [found for found in self._stages if found[1] == shown]:
                del self._stages[key]

    def read(self) -> Reading:
        """All numbers, as they are now."""
        for reader in tuple(self._readers):
            try:
                reader(self)
            except Exception:  # one source of numbers must not take the others away
                self.count("metrics_failures")
                log.debug("a source of metrics failed", exc_info=True)
        with self._lock:
            return Reading(
                counters=dict(self._counters),
                gauges=dict(self._gauges),
                stages={key: histogram.copy() for key, histogram in self._stages.items()},
                about=dict(self._about),
            )

    def summary(self) -> dict[str, Any]:
        """Everything as one object for JSON; names as published, without the prefix."""
        reading = self.read()
        stages: dict[str, dict[str, Any]] = {}
        for (stage, camid), found in sorted(reading.stages.items()):
            stages.setdefault(stage, {})[camid] = {
                "count": found.count,
                "mean_ms": 1e3 * found.seconds / found.count,
                "p50_ms": found.quantile(0.5),
                "p95_ms": found.quantile(0.95),
            }
        return {
            "about": dict(reading.about),
            "stages": stages,
            "counters": _nested(reading.counters),
            "gauges": _nested(reading.gauges),
        }

    def _series(self, name: str, camid: str | None, output: str | None) -> Series:
        if camid is not None:
            return Series(name, "camid", self._label(camid))
        return Series(name) if output is None else Series(name, "output", self._label(output))

    def _label(self, text: str) -> str:
        shown = self._labels.get(text)
        if shown is None:
            if len(self._labels) >= MAX_LABELS:
                return OTHER
            # A name holds no address, and two that hold parts of secrets must not become one.
            shown = self._labels[text] = text if re.fullmatch(NAME_PATTERN, text) else redact_text(text)
        return shown


def _nested(numbers: Mapping[Series, float]) -> dict[str, Any]:
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for series, value in sorted(numbers.items(), key=lambda item: (item[0].name, item[0].value)):
        found[series.name][series.value] = value
    return {name: values[""] if set(values) == {""} else values for name, values in found.items()}
