"""The history of a run as TensorBoard reads it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from reidge.train.run_folder import EpochRecord

FOLDER = "tensorboard"


def write_scalars(run_dir: Path, record: EpochRecord) -> None:
    """Add the figures of an epoch to the events under `run_dir`.

    The epoch is the step, and its events begin with a mark that discards what was written of it and of later ones
    before an interruption.
    """
    # Imported here because it takes a second, and opened anew each time because epochs are minutes apart: no thread
    # and no open file waits between them.
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run_dir / FOLDER), purge_step=record.epoch) as writer:
        for field in fields(record):
            value = getattr(record, field.name)
            if field.name not in ("epoch", "phase") and value is not None:
                writer.add_scalar(field.name, value, record.epoch)
