from __future__ import annotations

import cv2
import numpy as np

from reidge.edge.camera import CameraConfig
from reidge.edge.detection import Detections
from reidge.edge.frame import Frame
from reidge.edge.tracker import TrackerConfig
from reidge.edge.view import Glance, View

HERE = (100, 50, 140, 150)


def frame(at: float, *, shape: tuple[int, int] = (180, 320)) -> Frame:
    image = np.zeros((*shape, 3), dtype=np.uint8)
    return Frame(camid="cam1", index=0, captured_at=at, decoded_at=0.0, arrived_at=0.0, image=image)


def view(**settings: object) -> View:
    config = CameraConfig.model_validate({"name": "cam1", "source": "rtsp://host/a", **settings})
    return View(config, TrackerConfig(min_hits=2))


def look(subject: View, at: float, *boxes: tuple[float, ...], shape: tuple[int, int] = (180, 320)) -> Glance:
    return subject.take(frame(at, shape=shape), Detections.from_arrays(boxes, [0.9] * len(boxes)))


def test_a_track_goes_on_when_the_clock_steps_back_a_little() -> None:
    subject = view()
    for at in (10.0, 10.1, 10.05):
        glance = look(subject, at, HERE)
    assert glance.at == 10.1
    assert [box.track_id for box in glance.boxes] == [1]
    assert glance.ended == ()


def test_tracks_end_where_the_clock_is_set_back_and_new_ones_begin() -> None:
    subject = view()
    look(subject, 1000.0, HERE)
    look(subject, 1000.1, HERE)
    assert look(subject, 500.0, HERE).ended == (1,)
    glance = look(subject, 500.1, HERE)
    assert glance.at == 500.1
    assert [box.track_id for box in glance.boxes] == [2]


def test_tracks_end_where_the_clock_leaps_ahead() -> None:
    subject = view()
    look(subject, 1000.0, HERE)
    look(subject, 1000.1, HERE)
    assert look(subject, 5000.0, (200, 60, 240, 160)).ended == (1,)


def test_tracks_end_with_the_size_of_the_picture() -> None:
    subject = view()
    look(subject, 10.0, HERE)
    look(subject, 10.1, HERE)
    assert look(subject, 10.2, HERE, shape=(360, 640)).ended == (1,)


def test_boxes_that_are_none_are_left_out() -> None:
    subject = view()
    nothing = [(np.nan, 0, 10, 10), (0, 0, np.inf, 10), (-1e30, 0, 1e30, 10), (50, 50, 50, 90), (90, 90, 20, 120)]
    look(subject, 10.0, HERE, *nothing)
    glance = look(subject, 10.1, *nothing, HERE)
    assert [(box.track_id, box.detection) for box in glance.boxes] == [(1, 0)]
    assert len(glance.covered_N) == 1


def test_people_outside_the_region_are_not_followed() -> None:
    subject = view(region=[[0, 0], [0.25, 0], [0.25, 1], [0, 1]])
    look(subject, 10.0, HERE)
    assert look(subject, 10.1, HERE).boxes == ()


def test_people_before_a_camera_that_swings_stay_who_they_are() -> None:
    rng = np.random.default_rng(0)
    # Coarse and fine, as walls and floors are.
    coarse, fine = (cv2.resize(rng.uniform(0, 127, size=(s, 2 * s, 3)), (480, 240)) for s in (4, 30))
    scene = np.asarray(coarse + fine, dtype=np.uint8)

    def ids(**settings: object) -> set[int]:
        subject, found = view(**settings), set()
        for turn in range(12):
            swing = 45 * (turn % 2)  # farther than a person is wide
            picture = np.ascontiguousarray(scene[50:230, 100 - swing : 420 - swing])
            image = Frame(camid="cam1", index=0, captured_at=turn / 10, decoded_at=0.0, arrived_at=0.0, image=picture)
            moved = (HERE[0] + swing, HERE[1], HERE[2] + swing, HERE[3])
            found |= {box.track_id for box in subject.take(image, Detections.from_arrays([moved], [0.9])).boxes}
        return found

    assert ids(moves=True) == {1}
    assert ids(moves=False) == set()
