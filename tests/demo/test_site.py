from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
import pytest

from reidge.demo.figure import draw_figure
from reidge.demo.people import draw_people
from reidge.demo.site import SiteConfig, plan, read_mot, read_site_config, simulate
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

TINY = SiteConfig(seed=5, cameras=2, residents=3, strangers=1, routes=(1, 1), density=0.7)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "site"
    simulate(TINY, root)
    return root


def truth_bytes(root: Path) -> dict[str, bytes]:
    files = [*root.glob("truth/**/*.txt"), *root.glob("split/*/*.jpg")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_the_same_seed_gives_the_same_ground_truth_byte_for_byte(site: Path, tmp_path: Path) -> None:
    simulate(TINY, tmp_path / "again")
    assert truth_bytes(tmp_path / "again") == truth_bytes(site)
    assert len(truth_bytes(site)) > 4


def test_the_footage_is_h264_at_640x360_and_10_frames_a_second(site: Path) -> None:
    with av.open(str(site / "footage" / "second" / "cam2.mp4")) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(video=0))
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 640, 360)
        assert stream.average_rate == 10
        assert frames == TINY.half_seconds[1] * 10


def test_strangers_appear_in_the_second_half_only(site: Path) -> None:
    def pids(half: str) -> set[int]:
        return {truth.pid for camid in ("cam1", "cam2") for truth in read_mot(site / "truth" / half / camid)}

    assert pids("first") == {1, 2, 3}
    assert pids("second") == {1, 2, 3, 4}


def test_nobody_is_in_two_places_at_once() -> None:
    _, visits = plan(SiteConfig(seed=1, residents=12, strangers=4))
    ways = defaultdict(list)
    for visit in visits:
        ways[visit.person.pid].append(visit)
    for own in ways.values():
        own.sort(key=lambda visit: visit.start)
        assert all(a.end < b.start for a, b in pairwise(own))


def test_truth_boxes_lie_in_the_frame_on_the_person(site: Path) -> None:
    truths = list(read_mot(site / "truth" / "second" / "cam1"))
    assert all(0 <= t.x1 < t.x2 <= 640 and 0 <= t.y1 < t.y2 <= 360 and 0 <= t.visibility <= 1 for t in truths)
    clear = max((t for t in truths if t.visibility > 0.99), key=lambda t: (t.x2 - t.x1) * (t.y2 - t.y1))
    with av.open(str(site / "footage" / "second" / "cam1.mp4")) as container:
        frames = [frame.to_ndarray(format="bgr24").astype(int) for frame in container.decode(video=0)]
    background = np.median(frames[:: len(frames) // 25], axis=0)
    moved = np.abs(frames[clear.frame - 1] - background).max(axis=2) > 40
    inside = moved[clear.y1 : clear.y2, clear.x1 : clear.x2]
    assert inside.mean() > 0.25
    outside = moved.sum() - inside.sum()
    assert outside < 0.2 * inside.sum()


def test_the_split_has_market_names_and_each_query_is_seen_by_another_camera(site: Path) -> None:
    queries = sorted(path.name for path in (site / "split" / "query").iterdir())
    gallery = sorted(path.name for path in (site / "split" / "bounding_box_test").iterdir())
    assert queries
    assert all(name[4:7] in ("_c1", "_c2") and name[7:9] == "s1" and name.endswith("_00.jpg") for name in queries)
    seen_by = defaultdict(set)
    for name in gallery:
        seen_by[name[:4]].add(name[6])
    assert any(len(cameras) == 2 for cameras in seen_by.values())


def test_a_person_looks_different_from_behind_than_from_the_front() -> None:
    person = next(p for p in draw_people(50, np.random.default_rng(0)) if p.bag == "backpack")
    front, back = (draw_figure(person, heading=angle, phase=0.0, tilt=0.2) for angle in (0.0, np.pi))
    assert front.shape == back.shape
    assert cv2.norm(front, back, cv2.NORM_L1) / max(int((front[..., 3] > 0).sum()), 1) > 20


def test_no_two_people_look_the_same() -> None:
    people = draw_people(200, np.random.default_rng(0))
    looks = {(p.top_colour, p.bottom, p.bottom_colour) for p in people}
    assert len(looks) == 200


def test_the_configuration_stands_beside_the_site(site: Path) -> None:
    assert read_site_config(site) == TINY


def test_a_site_that_exists_is_not_overwritten(site: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        simulate(TINY, site)
