from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reidge.edge.errors import ReidgeError
from reidge.edge.outputs import spool as spool_module
from reidge.edge.outputs.spool import LITTERED, Spool
from tests.servers.disk import largest_file

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def spool_in(folder: Path, *, max_bytes: int = 2**20, max_kept: int = 100) -> Iterator[Spool]:
    spool = Spool(folder, max_bytes=max_bytes, max_kept=max_kept)
    spool.open()
    try:
        yield spool
    finally:
        spool.close()


def lines(*numbers: int) -> list[bytes]:
    return [b"%07d\n" % number for number in numbers]


def numbers(spool: Spool, after: int | None = None, most: int = 10_000) -> list[int]:
    return [int(record.line) for record in spool.read(spool.acknowledged if after is None else after, most)]


def test_lines_are_read_in_order_until_they_are_acknowledged(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(1, 2, 3))
        spool.append(lines(4))
        assert numbers(spool, most=2) == [1, 2]
        assert numbers(spool, after=2) == [3, 4]
        spool.acknowledge(3)
        assert (numbers(spool), spool.pending, spool.lost) == ([4], 1, 0)


def test_a_restart_goes_on_after_the_last_acknowledged_line(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(1, 2, 3))
        spool.acknowledge(1)
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(4))
        assert numbers(spool) == [2, 3, 4]
        assert [record.number for record in spool.read(1, 10)] == [2, 3, 4]


def test_nothing_stays_on_disk_when_all_is_acknowledged(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(1, 2, 3))
        spool.acknowledge(3)
    assert list((tmp_path / "spool").glob("*.jsonl")) == []
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(4))
        assert [record.number for record in spool.read(3, 10)] == [4]


def test_acknowledged_lines_do_not_pile_up_while_it_runs(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool", max_bytes=2**24) as spool:
        for number in range(1, 3 * LITTERED // 8):
            spool.append(lines(number))
            spool.acknowledge(number)
        assert spool.size < LITTERED + 8
        assert spool.lost == 0


KILLED = """
import sys
from pathlib import Path
from reidge.edge.outputs.spool import Spool
spool = Spool(Path(sys.argv[1]), max_bytes=2**20, max_kept=10)
spool.open()
for number in range(1, 1001):
    spool.append([b"%07d\\n" % number])
    if number == 400:
        spool.acknowledge(300)
        spool.tend()
print("ready", flush=True)
sys.stdin.read()
"""


def test_sigkill_takes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "spool")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    with spool_in(tmp_path / "spool") as spool:
        assert numbers(spool) == list(range(301, 1001))


def test_a_torn_line_at_the_end_is_not_read(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(1, 2))
    (segment,) = (tmp_path / "spool").glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(b"00000")
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(3))
        assert numbers(spool) == [1, 2, 3]


@pytest.mark.parametrize("torn", [b"", b"00000"])
def test_a_kill_before_the_first_line_of_a_segment_takes_nothing_later(tmp_path: Path, torn: bytes) -> None:
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(1, 2))
    (tmp_path / "spool" / f"{3:016d}.jsonl").write_bytes(torn)
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(3, 4))
        spool.acknowledge(2)  # takes off the first segment, and must not take the second one by its name
        spool.append(lines(5))
        assert (numbers(spool), spool.lost) == ([3, 4, 5], 0)


def test_a_segment_deleted_while_it_is_written_costs_only_what_was_in_it(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(1, 2))
        (tmp_path / "spool" / f"{1:016d}.jsonl").unlink()
        assert numbers(spool) == []
        spool.append(lines(3))
        assert (numbers(spool), spool.lost, spool.pending) == ([3], 2, 1)


def test_beyond_its_bound_the_oldest_are_lost_and_counted(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool", max_bytes=1600) as spool:  # 200 lines of 8 bytes
        for number in range(1, 1001):
            spool.append(lines(number))
        left = numbers(spool)
        assert left == list(range(1001 - len(left), 1001))
        assert 180 <= len(left) <= 200
        assert (spool.size <= 1600, spool.pending, spool.lost) == (True, len(left), 1000 - len(left))


def test_one_batch_larger_than_the_bound_is_bounded_too(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool", max_bytes=1600) as spool:
        spool.append(lines(*range(1, 1001)))
        assert spool.size <= 1600
        assert numbers(spool)[-1] == 1000


def test_acknowledged_lines_are_not_counted_as_lost(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool", max_bytes=1600) as spool:
        for number in range(1, 1001):
            spool.append(lines(number))
            spool.acknowledge(number)
        assert spool.lost == 0


def test_a_full_disk_keeps_lines_in_memory_and_they_are_read_in_order(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(1, 2))
        with largest_file(20):  # two lines and a half
            spool.append(lines(3, 4))
            assert spool.trouble is not None
            assert spool.kept == 2
            assert numbers(spool) == [1, 2, 3, 4]
            spool.acknowledge(3)
            assert numbers(spool) == [4]
        spool.append(lines(5))
        assert spool.trouble is None
        assert spool.kept == 0
        assert numbers(spool) == [4, 5]
    with spool_in(tmp_path / "spool") as spool:
        assert numbers(spool) == [4, 5]


def test_memory_is_written_when_there_is_space_again_though_nothing_comes(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool") as spool:
        with largest_file(0):
            spool.append(lines(1, 2))
            spool.tend()
            assert spool.kept == 2
        spool.tend()
        assert spool.trouble is None
        assert (spool.kept, numbers(spool)) == (0, [1, 2])


def test_memory_is_bounded_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool", max_kept=10) as spool:
        with largest_file(0):
            spool.append(lines(*range(1, 31)))
        assert (numbers(spool), spool.lost) == (list(range(21, 31)), 20)


def test_a_segment_that_another_hand_deleted_is_counted_and_not_waited_for(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(1, 2))
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(3))
        (tmp_path / "spool" / f"{1:016d}.jsonl").unlink()
        assert (numbers(spool), spool.lost, spool.pending) == ([3], 2, 1)


def make_unreadable(segment: Path) -> Path:
    """A folder in its place cannot be read by anybody, root included; tells where the segment lies meanwhile."""
    away = segment.rename(segment.with_name("away"))
    segment.mkdir()
    return away


def test_a_segment_that_cannot_be_read_is_waited_for_and_then_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = tmp_path / "spool" / f"{1:016d}.jsonl"
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(1, 2))
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(3))
        make_unreadable(first)
        assert (numbers(spool), spool.lost) == ([], 0)  # nothing overtakes it
        monkeypatch.setattr(spool_module, "UNREADABLE_SECONDS", 0.0)
        assert (numbers(spool), spool.lost, spool.pending) == ([3], 2, 1)
        spool.acknowledge(3)
    assert caplog.messages == [
        f"{first} cannot be read (Is a directory): it is kept as {first.stem}.unreadable, not sent"
    ]
    assert first.with_suffix(".unreadable").exists()


def test_a_segment_that_can_be_read_again_in_time_is_read_in_its_place(tmp_path: Path) -> None:
    first = tmp_path / "spool" / f"{1:016d}.jsonl"
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(1, 2))
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(3))
        away = make_unreadable(first)
        assert numbers(spool) == []
        first.rmdir()
        away.rename(first)
        assert (numbers(spool), spool.lost) == ([1, 2, 3], 0)


def test_a_segment_that_cannot_be_read_while_it_is_written_costs_only_what_was_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "UNREADABLE_SECONDS", 0.0)
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(1, 2))
        make_unreadable(tmp_path / "spool" / f"{1:016d}.jsonl")
        assert numbers(spool) == []
        spool.append(lines(3))
        assert (numbers(spool), spool.lost, spool.pending) == ([3], 2, 1)


def test_two_runs_do_not_share_a_spool(tmp_path: Path) -> None:
    with (
        spool_in(tmp_path / "spool"),
        pytest.raises(ReidgeError, match=r"in use by another run\. Give each its own folder") as caught,
        spool_in(tmp_path / "spool"),
    ):
        pass
    assert caught.value.exit_status == 1  # the other may end: a service manager is to try again


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    with spool_in(tmp_path / "spool") as spool:
        spool.append(lines(1, 2))
        spool.acknowledge(1)
        spool.tend()
        modes = {path.name: path.stat().st_mode & 0o077 for path in (tmp_path / "spool").iterdir()}
        assert "acknowledged" in modes
        assert set(modes.values()) == {0}
        assert (tmp_path / "spool").stat().st_mode & 0o077 == 0


def test_it_leaves_no_descriptor_open(tmp_path: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    with spool_in(tmp_path / "spool", max_bytes=800) as spool:
        for number in range(500):
            spool.append(lines(number))
            spool.acknowledge(number // 2)
        spool.tend()
        assert count() <= before + 2  # the lock and the last segment
    assert count() == before


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_lines_stay_in_order_and_each_is_read_or_counted(tmp_path: Path, seed: int) -> None:
    """Held against a plain list: kills, ends, full disks and acknowledgements in any order."""
    rng = random.Random(seed)
    spool = Spool(tmp_path, max_bytes=2**20, max_kept=1000)
    spool.open()
    expected: list[int] = []  # all that must still be there
    put = 0
    for _ in range(100):
        step = rng.choice(["put", "put", "put", "full", "acknowledge", "tend", "kill", "end"])
        if step in ("put", "full"):
            fresh = list(range(put + 1, put + 1 + rng.randrange(1, 40)))
            put = fresh[-1]
            with largest_file(rng.randrange(400)) if step == "full" else nullcontext():
                spool.append(lines(*fresh))
            expected += fresh
        elif step == "acknowledge" and expected:
            records = spool.read(spool.acknowledged, rng.randrange(1, 60))
            spool.acknowledge(records[-1].number)
            expected = expected[len(records) :]
        elif step == "tend":
            spool.tend()
        elif step in ("kill", "end"):
            spool.tend()  # a kill between two acknowledgements and the next second repeats lines; not tried here
            assert spool.kept == 0
            if step == "end":
                spool.close()
            else:  # the kernel lets go of what a killed process had open
                for fd in (spool._lock_fd, spool._fd):
                    if fd is not None:
                        os.close(fd)
            spool = Spool(tmp_path, max_bytes=2**20, max_kept=1000)
            spool.open()
        assert numbers(spool) == expected
        assert (spool.pending, spool.lost) == (len(expected), 0)
    spool.close()
