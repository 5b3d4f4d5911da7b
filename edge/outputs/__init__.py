"""Where events go, each output in a thread of its own: `write` takes an event and returns at once."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from reidge.edge.outputs.jsonl import JsonLines, RotationConfig, Stdout
from reidge.edge.outputs.mqtt import MqttConfig, MqttOutput
from reidge.edge.redact import redact_text

if TYPE_CHECKING:
    from types import TracebackType

    from reidge.edge.events import Event
    from reidge.edge.metrics import Metrics
    from reidge.edge.outputs.worker import Output

CLOSE_SECONDS = 1.5
"""How long the end of a run waits for events to get out, over all outputs."""
GOODBYE_SECONDS = 0.5
"""How long it waits then for the threads of the outputs."""

log = logging.getLogger(__name__)


class OutputConfig(BaseModel, frozen=True, extra="forbid"):
    """Where results go."""

    events: str | None = "-"
    """File to append events to as JSON lines; `-` is stdout; null writes none."""
    rotation: RotationConfig = RotationConfig()
    max_waiting: int = Field(20_000, ge=1)
    """Events that wait in memory for each output that does not take them; beyond it the oldest are lost."""
    mqtt: MqttConfig | None = None
    """The broker that events are sent to; null sends none."""
    tracks: Path | None = None
    """Folder for the boxes of every frame (one CSV file a camera) and `identities.csv`, to score a run by.

    For recordings: the loop writes them itself and waits for the disk, the files grow without end, and so does memory,
    by every track.
    """

    def inside(self, folder: Path) -> OutputConfig:
        """Make relative paths start at `folder`."""
        events = self.events if self.events in (None, "-") else str(folder / self.events)
        mqtt = None if self.mqtt is None else self.mqtt.inside(folder)
        tracks = None if self.tracks is None else folder / self.tracks
        return self.model_copy(update={"events": events, "mqtt": mqtt, "tracks": tracks})


class Outputs:
    """All outputs of a run; use it in a `with`.

    Args:
        config: Where events go.
        metrics: Where events, losses and failures are counted.

    Raises:
        OSError: On entering: an output cannot be written to. Later nothing is raised.
        InputError: On entering: settings that can never work.
    """

    def __init__(self, config: OutputConfig, *, metrics: Metrics | None = None) -> None:
        self.config = config
        self.written = 0
        """Events taken in."""
        self.left = 0
        """Events that were given up at the end, over all outputs."""
        self._metrics = metrics
        self._outputs = _build(config, metrics)
        if metrics is not None:
            metrics.on_read(self._measure)

    def __enter__(self) -> Outputs:
        try:
            for output in self._outputs:
                output.open()
        except BaseException:
            self._close()
            raise
        for output in self._outputs:
            output.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def lost(self) -> int:
        """Events that an output gave up, over all outputs."""
        return sum(output.lost for output in self._outputs)

    @property
    def trouble(self) -> dict[str, str]:
        """Outputs that deliver nothing at the moment, and why; redacted."""
        return {output.label: output.trouble for output in self._outputs if output.trouble is not None}

    def write(self, event: Event) -> None:
        """Hand an event to every output; never blocks, never raises."""
        self.written += 1
        try:
            if self._metrics is not None:
                self._metrics.count("events")
            if event.reason is not None:
                event = event.model_copy(update={"reason": redact_text(event.reason)})
            line = event.model_dump_json().encode() + b"\n" if self._outputs else b""
            for output in self._outputs:
                output.put(event, line)
        except Exception as error:
            log.error("an event could not be handed on: %s: %s", type(error).__name__, redact_text(str(error)))

    def flush(self, seconds: float) -> bool:
        """Wait until everything is out or safe on disk; False when that took longer than `seconds`."""
        deadline = time.monotonic() + seconds
        return all([output.flush(deadline) for output in self._outputs])

    def _close(self) -> None:
        deadline, lost = time.monotonic() + CLOSE_SECONDS + GOODBYE_SECONDS, self.lost
        self.flush(CLOSE_SECONDS)
        for output in self._outputs:  # all before the first is waited for: one that hangs takes no time from others
            output.leave()
        for output in self._outputs:
            output.close(deadline)
        self.left = self.lost - lost

    def _measure(self, metrics: Metrics) -> None:
        for output in self._outputs:
            metrics.gauge("output_up", output.trouble is None, output=output.label)
            metrics.gauge("output_waiting", output.waiting, output=output.label)
            if isinstance(output, MqttOutput):
                metrics.gauge("spool_bytes", output.spool.size, output=output.label)


def _build(config: OutputConfig, metrics: Metrics | None) -> list[Output]:
    outputs: list[Output] = []
    if config.events == "-":
        outputs.append(Stdout(max_waiting=config.max_waiting, metrics=metrics))
    elif config.events is not None:
        outputs.append(JsonLines(Path(config.events), config.rotation, max_waiting=config.max_waiting, metrics=metrics))
    if config.mqtt is not None:
        outputs.append(MqttOutput(config.mqtt, max_waiting=config.max_waiting, metrics=metrics))
    return outputs
