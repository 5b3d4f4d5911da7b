from __future__ import annotations

import threading

import numpy as np

from reidge.edge.frame import Frame
from reidge.edge.mailbox import MOST_NEWS, CameraState, Mailbox

IMAGE_HW3 = np.zeros((1, 1, 3), dtype=np.uint8)
FRAMES = [Frame(camid="cam1", index=k, captured_at=float(k), decoded_at=0.0, image=IMAGE_HW3) for k in range(3)]


def state(*, up: bool, at: float = 0.0) -> CameraState:
    return CameraState(camid="cam1", up=up, at=at)


def test_the_newest_frame_takes_the_place_of_what_nobody_took() -> None:
    mailbox = Mailbox(1, threading.Event())
    for index in range(3):
        mailbox.put_newest(FRAMES[index])
    assert mailbox.take()[1] == FRAMES[2]
    assert mailbox.take() == ([], None)
    assert mailbox.dropped == 2


def test_news_come_before_the_frames_that_follow_them_and_not_earlier() -> None:
    # A frame from before a loss, handled after it was told, would begin tracks that nobody ends.
    mailbox = Mailbox(1, threading.Event())
    mailbox.say(state(up=True))
    mailbox.put_newest(FRAMES[0])
    mailbox.say(state(up=False))
    assert mailbox.take() == ([state(up=True)], FRAMES[0])
    assert mailbox.take() == ([state(up=False)], None)


def test_news_survive_the_frames_that_are_replaced() -> None:
    mailbox = Mailbox(1, threading.Event())
    mailbox.put_newest(FRAMES[0])
    mailbox.say(state(up=False))
    mailbox.say(state(up=True))
    mailbox.put_newest(FRAMES[1])
    assert mailbox.take() == ([state(up=False), state(up=True)], FRAMES[1])


def test_news_are_bounded_and_the_latest_stay() -> None:
    mailbox = Mailbox(1, threading.Event())
    for at in range(10 * MOST_NEWS):
        mailbox.say(state(up=False, at=float(at)))
    assert [news.at for news in mailbox.take()[0]] == [float(at) for at in range(9 * MOST_NEWS, 10 * MOST_NEWS)]


def test_a_full_mailbox_makes_a_recording_wait() -> None:
    wake = threading.Event()
    mailbox = Mailbox(1, wake)
    assert mailbox.put_all(FRAMES[0], seconds=0.0)
    assert not mailbox.put_all(FRAMES[1], seconds=0.01)
    assert wake.is_set()
    assert mailbox.take()[1] == FRAMES[0]
    assert mailbox.put_all(FRAMES[1], seconds=0.0)
    assert mailbox.dropped == 0


def test_a_frame_that_is_no_longer_wanted_is_dropped_and_counted() -> None:
    mailbox = Mailbox(1, threading.Event())
    mailbox.put_newest(FRAMES[0])
    mailbox.put_newest(FRAMES[1], unless=lambda: True)
    assert mailbox.dropped == 1
    assert mailbox.take()[1] is FRAMES[0]
