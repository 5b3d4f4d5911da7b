"""The history of a run as TensorBoard reads it: one file of events, added to after each epoch."""

from __future__ import annotations

import io
import os
import struct
import time
from dataclasses import fields
from typing import TYPE_CHECKING

from reidge.edge.errors import ReidgeError

if TYPE_CHECKING:
    from pathlib import Path

    from reidge.train.run_folder import EpochRecord

FOLDER = "tensorboard"
EVENTS_NAME = "events.out.tfevents.history"
"""TensorBoard looks for `tfevents` in the name."""
VERSION = "brain.Event:2"
"""From this version on, a mark of a restart discards the steps that follow it."""
LENGTH = struct.Struct("<Q")
FRAME_BYTES = LENGTH.size + 2 * 4
"""What a record adds to its content: its length, a checksum of the length, a checksum of the content."""


def write_scalars(run_dir: Path, record: EpochRecord) -> None:
    """Add the figures of an epoch, which is their step.

    They begin with a mark that makes TensorBoard forget what was written of this epoch and of later ones before an
    interruption, so none appears twice. What an interruption left half written is cut off.

    Raises:
        ReidgeError: The file cannot be written.
    """
    # Imported here because only this function needs it. Its own writer would keep a thread and a queue open over
    # epochs that are minutes apart.
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    figures = {field.name: getattr(record, field.name) for field in fields(record)}
    values = [
        Summary.Value(tag=name, simple_value=value)
        for name, value in figures.items()
        if isinstance(value, (int, float)) and name != "epoch"
    ]
    now, step = time.time(), record.epoch
    events = [
        Event(wall_time=now, step=step, session_log=SessionLog(status=SessionLog.START)),
        Event(wall_time=now, step=step, summary=Summary(value=values)),
    ]
    path = run_dir / FOLDER / EVENTS_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "w+b") as file:
            end = _end_of_whole_records(file)
            if end == 0:
                events.insert(0, Event(wall_time=now, file_version=VERSION))
            content = io.BytesIO()
            for event in events:
                RecordWriter(content).write(event.SerializeToString())
            file.truncate(end)
            file.seek(end)
            file.write(content.getvalue())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ReidgeError(
            f"{path} cannot be written: {error.strerror or error}. Free some space and go on with --resume."
        ) from error


def _end_of_whole_records(file: io.BufferedRandom) -> int:
    """Where the last whole record ends, in bytes; a reader gives up at one that is cut off."""
    size = file.seek(0, os.SEEK_END)
    end = 0
    while end + FRAME_BYTES <= size:
        file.seek(end)
        following = end + FRAME_BYTES + LENGTH.unpack(file.read(LENGTH.size))[0]
        if following > size:
            break
        end = following
    return end
