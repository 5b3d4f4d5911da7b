"""Metrics in the text format of Prometheus, or OpenMetrics where that is asked for."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from reidge.edge.latency import BOUNDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from reidge.edge.metrics import Metrics, Reading, Series

COUNTERS = {
    "camera_abandoned": "Reader threads that hung and were replaced.",
    "camera_connections": "Connections made to a camera.",
    "camera_failures": "Connections that failed or were lost.",
    "embeddings": "Pictures of people that were embedded.",
    "events": "Events taken in by the outputs.",
    "events_unsaved": "Events that went out before the gallery's file said what they say.",
    "frames_corrupt": "Packets or frames that could not be decoded.",
    "frames_decoded": "Frames decoded.",
    "frames_dropped": "Frames offered to the loop and never handled, because a newer one had come.",
    "frames_failed": "Frames on which the detector or the tracker failed.",
    "frames_handled": "Frames detected and tracked.",
    "frames_offered": "Frames offered to the loop.",
    "gallery_failures": "Writes to the gallery that failed and were tried again.",
    "gallery_shed": "Pictures of sightings left out of the gallery, because too much waited for its disk.",
    "metrics_failures": "Sources of metrics that failed when they were read.",
    "output_delivered": "Events that an output delivered: written, or acknowledged by the broker.",
    "output_failures": "Attempts of an output that failed.",
    "output_lost": "Events that an output gave up.",
    "output_repeated": "Events sent again, with the same event_id, because their acknowledgement never came.",
    "pictures_blurred": "Pictures of people not embedded: less sharp than is usual for the track.",
    "pictures_covered": "Pictures of people not embedded: somebody stands before them.",
    "pictures_cut": "Pictures of people not embedded: at the edge of the frame.",
    "pictures_failed": "Pictures at which the encoder failed.",
    "pictures_small": "Pictures of people not embedded: too small.",
    "pictures_surprising": "Pictures of people not embedded: of a height that was not expected.",
    "pictures_unsure": "Pictures of people not embedded: the detector is not sure.",
    "reloads": "Site files taken in while running.",
    "rotation_failures": "Files of events that were full and could not be put aside.",
    "sightings": "Tracks that were confirmed.",
}
"""What the counters mean; published as `reidge_<name>_total`."""
GAUGES = {
    "camera_rate": "Frames per second that a camera may offer at present.",
    "camera_up": "Whether a camera gives frames.",
    "frame_age_seconds": "Seconds since the newest frame of a camera was decoded; before the first, since the start.",
    "gallery_pending": "Changes of the gallery that wait to be written.",
    "identities": "Different identities seen in this run.",
    "loop_age_seconds": "Seconds since the loop last came round.",
    "output_up": "Whether an output delivers; the broker is connected.",
    "output_waiting": "Events that wait for an output, in memory and in its spool.",
    "spool_bytes": "Size of an output's spool on disk.",
    "threads": "Threads of the process.",
}
"""What the gauges mean; published as `reidge_<name>`."""
STAGES_HELP = (
    "Seconds that a stage took for a frame, with its wait for the others of a batch; "
    "event is from a frame's arrival to the last event that it caused."
)


def exposition(metrics: Metrics, accept: str = "") -> tuple[bytes, str]:
    """Write all metrics as text.

    Args:
        metrics: What to publish.
        accept: The request's `Accept` header, which chooses the format.

    Returns:
        The text, and its content type.
    """
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics))
    ProcessCollector(registry=registry)
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


class _Collector:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        self._metrics.gauge("threads", threading.active_count())
        reading = self._metrics.read()
        if reading.about:
            yield InfoMetricFamily("reidge", "What runs here.", dict(reading.about))
        for name, values in _families(reading.counters).items():
            yield _filled(
                CounterMetricFamily(f"reidge_{name}", COUNTERS.get(name, name), labels=_labels(values)), values
            )
        for name, values in _families(reading.gauges).items():
            yield _filled(GaugeMetricFamily(f"reidge_{name}", GAUGES.get(name, name), labels=_labels(values)), values)
        yield from _stages(reading)


def _stages(reading: Reading) -> Iterator[Metric]:
    from prometheus_client.metrics_core import HistogramMetricFamily

    family = HistogramMetricFamily("reidge_stage_seconds", STAGES_HELP, labels=("stage", "camid"))
    for (stage, camid), found in sorted(reading.stages.items()):
        buckets = [(repr(bound), float(count)) for bound, count in zip(BOUNDS, found.within(), strict=True)]
        family.add_metric((stage, camid), [*buckets, ("+Inf", float(found.count))], sum_value=found.seconds)
    yield family


def _families(numbers: Mapping[Series, float]) -> dict[str, dict[Series, float]]:
    found: defaultdict[str, dict[Series, float]] = defaultdict(dict)
    for series in sorted(numbers, key=lambda series: (series.name, series.value)):
        found[series.name][series] = numbers[series]
    return found


def _labels(values: Mapping[Series, float]) -> list[str]:
    return sorted({series.label for series in values if series.label is not None})


def _filled(family: Metric, values: Mapping[Series, float]) -> Metric:
    for series, value in values.items():
        family.add_metric([] if series.label is None else [series.value], value)  # type: ignore[attr-defined]
    return family
