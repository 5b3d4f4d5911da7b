from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from reidge.edge.errors import InputError
from reidge.edge.footage import Span, check_footage, count_frames, is_live, read_footage, shared_start

if TYPE_CHECKING:
    from pathlib import Path


def test_frames_carry_the_clock_of_the_recording(still: Path) -> None:
    frames = list(read_footage(str(still), camid="cam1", start=1000.0))
    assert len(frames) == 30
    assert [frame.index for frame in frames] == list(range(30))
    assert frames[25].captured_at == pytest.approx(1002.5)
    assert frames[0].image.shape == (180, 320, 3)


def test_a_span_is_cut_out_by_time(still: Path) -> None:
    frames = list(read_footage(str(still), camid="cam1", span=Span(since=1.0, until=2.0)))
    assert [frame.index for frame in frames] == list(range(10, 20))


def test_max_fps_thins_out_evenly(still: Path) -> None:
    frames = list(read_footage(str(still), camid="cam1", span=Span(max_fps=5)))
    assert [frame.index for frame in frames] == list(range(0, 30, 2))


@pytest.mark.parametrize(("span", "count"), [(Span(), 30), (Span(since=1.0, until=2.0), 10), (Span(max_fps=5), 15)])
def test_the_number_of_frames_is_known_before(still: Path, span: Span, count: int) -> None:
    assert count_frames(str(still), span) == count


def test_a_cut_off_recording_gives_what_is_left(still: Path, tmp_path: Path) -> None:
    # Matroska needs no index at the end, so half a file is half a recording.
    import av

    whole, half = tmp_path / "whole.mkv", tmp_path / "half.mkv"
    with av.open(str(still)) as source, av.open(str(whole), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert 5 < len(list(read_footage(str(half), camid="cam1"))) < 30


def write_raw_video(path: Path, *, frames: int, damaged: int | None = None) -> None:
    """A video of 10 pictures a second that are stored as they are; one may begin with something else than a picture."""
    marks = [b"GARBAGE\n" if number == damaged else b"FRAME\n" for number in range(frames)]
    picture = bytes(32 * 18 * 3 // 2)
    path.write_bytes(b"YUV4MPEG2 W32 H18 F10:1 Ip A1:1 C420jpeg\n" + b"".join(mark + picture for mark in marks))


def test_a_recording_that_cannot_be_read_to_its_end_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "disk.y4m"
    write_raw_video(path, frames=30)
    assert len(list(read_footage(str(path), camid="cam1"))) == 30
    assert caplog.messages == []
    write_raw_video(path, frames=30, damaged=20)
    assert len(list(read_footage(str(path), camid="cam1"))) == 20
    (message,) = caplog.messages
    assert "disk.y4m cannot be read beyond 1.9 s (Invalid data found" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", r"is empty \(0 bytes\)"),
        (b"this is not a video" * 100, "cannot be read as video"),
    ],
)
def test_bad_footage_is_named_in_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    for use in (lambda: check_footage(str(path)), lambda: list(read_footage(str(path), camid="cam1"))):
        with pytest.raises(InputError, match=rf"bad\.mp4 {message}") as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 12 pictures, each as bright as its number; the fifth is damaged."""
    for number in range(12):
        assert cv2.imwrite(str(tmp_path / f"frame{number}.png"), np.full((18, 32, 3), number, dtype=np.uint8))
    (tmp_path / "frame4.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("not a picture either")
    return tmp_path


def test_a_folder_of_pictures_is_a_recording_in_the_order_of_its_numbers(pictures: Path) -> None:
    frames = list(read_footage(str(pictures), camid="cam1", start=100.0, span=Span(picture_fps=5)))
    assert [int(frame.image.mean()) for frame in frames] == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert frames[-1].captured_at == pytest.approx(100.0 + 11 / 5)


def test_a_span_of_pictures_is_cut_out_by_time(pictures: Path) -> None:
    span = Span(since=0.5, until=1.0, max_fps=5)
    assert [frame.index for frame in read_footage(str(pictures), camid="cam1", span=span)] == [5, 7, 9]
    assert count_frames(str(pictures), span) == 2
    assert count_frames(str(pictures)) == 12


def test_a_folder_without_pictures_is_no_footage(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no pictures \(\.jpg, "):
        check_footage(str(tmp_path))
    (tmp_path / "a.jpg").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"none of its 1 pictures can be read"):
        list(read_footage(str(tmp_path), camid="cam1"))


def test_addresses_and_devices_are_live_and_paths_are_not() -> None:
    assert is_live("/dev/video0")
    assert is_live("RTSP://host/stream")
    assert not is_live("rtsp.mp4")


def test_recordings_without_a_clock_share_one(still: Path, walks: dict[str, Path]) -> None:
    sources = [str(still), str(walks["cam1"]), "rtsp://host/stream"]
    oldest = min(still.stat().st_mtime, walks["cam1"].stat().st_mtime)
    assert shared_start(sources) == int(oldest)


def test_an_address_without_its_scheme_does_not_show_its_password() -> None:
    with pytest.raises(InputError, match=r"<unparseable source> does not exist\. Give a video file or an rtsp://"):
        check_footage("viewer:secret@host/stream")
