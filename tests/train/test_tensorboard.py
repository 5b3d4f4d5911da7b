from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reidge.edge.errors import ReidgeError
from reidge.train.run_folder import EpochRecord
from reidge.train.tensorboard import EVENTS_NAME, FOLDER, write_scalars

if TYPE_CHECKING:
    from pathlib import Path


def record(epoch: int, loss: float, *, mAP: float | None = None) -> EpochRecord:
    return EpochRecord(
        epoch=epoch, phase="cluster", loss=loss, clusters=3, outliers=1, eps=0.5, lr=1e-3, seconds=1.0,
        images_per_second=10.0, mAP=mAP,
    )  # fmt: skip


def read(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard's own reader makes of a run."""
    events = EventAccumulator(str(run_dir / FOLDER))
    events.Reload()
    return [(scalar.step, scalar.value) for scalar in events.Scalars(tag)]


def test_tensorboard_reads_each_figure_at_its_epoch(tmp_path: Path) -> None:
    for epoch in range(1, 13):
        write_scalars(tmp_path, record(epoch, 0.5 * epoch, mAP=0.25 if epoch % 4 == 0 else None))
    assert read(tmp_path, "loss") == [(epoch, 0.5 * epoch) for epoch in range(1, 13)]
    assert read(tmp_path, "mAP") == [(4, 0.25), (8, 0.25), (12, 0.25)]  # an epoch without a figure has no point


def test_epochs_that_a_resumed_run_repeats_appear_once(tmp_path: Path) -> None:
    for epoch, loss in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0), (3, 30.0), (4, 40.0)):
        write_scalars(tmp_path, record(epoch, loss))
    assert read(tmp_path, "loss") == [(1, 1.0), (2, 20.0), (3, 30.0), (4, 40.0)]


def test_half_a_record_left_by_an_interruption_hides_nothing(tmp_path: Path) -> None:
    write_scalars(tmp_path, record(1, 1.0))
    path = tmp_path / FOLDER / EVENTS_NAME
    whole = path.stat().st_size
    write_scalars(tmp_path, record(2, 2.0))
    content = path.read_bytes()
    for cut in (whole + 5, whole + 30, len(content) - 1):  # within a length, a mark, the figures
        path.write_bytes(content[:cut])
        write_scalars(tmp_path, record(2, 20.0))
        write_scalars(tmp_path, record(3, 30.0))
        assert read(tmp_path, "loss") == [(1, 1.0), (2, 20.0), (3, 30.0)]


def test_one_file_and_no_thread_are_left(tmp_path: Path) -> None:
    before = threading.active_count()
    for epoch in (1, 2, 3):
        write_scalars(tmp_path, record(epoch, 1.0))
    assert threading.active_count() == before
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == [EVENTS_NAME]


def test_where_nothing_can_be_written_one_line_says_so(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(ReidgeError, match="cannot be written"):
        write_scalars(tmp_path, record(1, 1.0))
