from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.crops import read_crop_folder
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType
    from typing import Any


@pytest.fixture(scope="module")
def identity(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("identity")


@pytest.fixture(scope="module")
def recorded(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("recorded")


@pytest.fixture(scope="module")
def sites(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("sites")


@pytest.fixture(scope="module")
def bundle(make_tiny_bundle: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("identity") / "bundle")


@pytest.fixture(scope="module")
def recording_path(
    identity: ModuleType, sites: ModuleType, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny site: two cameras, two residents and two strangers."""
    path = tmp_path_factory.mktemp("identity") / "tiny.npz"
    identity.record_site(sites.TINY, bundle, path, jobs=1)
    return path


@pytest.fixture(scope="module")
def recording(recorded: ModuleType, recording_path: Path) -> Any:
    return recorded.Recording.load(recording_path)


def test_the_day_before_is_one_crop_folder_of_all_cameras(
    identity: ModuleType, sites: ModuleType, tmp_path: Path
) -> None:
    identity.harvest_day(sites.TINY, tmp_path / "crops", jobs=1)
    records = read_crop_folder(tmp_path / "crops").records
    assert {record.camid for record in records} == {"cam1", "cam2"}
    assert all((tmp_path / "crops" / record.path).is_file() for record in records)
    written = (tmp_path / "crops" / "crops.csv").read_bytes()
    identity.harvest_day(sites.TINY, tmp_path / "crops", jobs=1)  # is there already
    assert (tmp_path / "crops" / "crops.csv").read_bytes() == written


def test_a_recording_holds_what_the_cameras_saw(recording: Any) -> None:
    assert recording.facts.cameras == ("cam1", "cam2")
    assert set(recording.facts.pids) == set(recording.people().values()) == {1, 2, 3, 4}
    assert set(recording.facts.residents) == {1, 2}
    assert {recording.key(row) for row in recording.boxes_B} == {recording.key(row) for row in recording.ended_E}
    assert (np.diff(recording.pictures_P["time"]) >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(recording.embeddings_PD, axis=1), 1, atol=1e-5)


def test_the_truth_about_every_track_is_the_best_that_can_be_made_of_them(recording: Any) -> None:
    oracle = recording.score(recording.people())
    assert oracle.idf1 > 0.9 * oracle.detection_f1
    assert recording.score({}).idf1 < oracle.idf1  # every track somebody of its own
    assert recording.score(dict.fromkeys(recording.people(), 1)).idf1 < oracle.idf1


def test_a_replay_gives_the_same_answer_every_time(recording: Any, recorded: ModuleType, bundle: Path) -> None:
    site = recorded.replay_site(recording, bundle)
    once, again = recorded.replay(recording, site), recorded.replay(recording, site)
    assert once.identities == again.identities
    assert once.score == again.score
    assert once.identities.keys() == {recording.key(row) for row in recording.ended_E}
    assert sum(event.event == "sighting.ended" for event in once.events) == len(recording.ended_E)


def test_settings_reach_the_replay(recording: Any, recorded: ModuleType, bundle: Path) -> None:
    site = recorded.replay_site(recording, bundle, ["identity.min_similarity=-1", "identity.min_sightings=1"])
    assert site.identity.min_similarity == -1
    alone = recorded.replay_site(recording, bundle, ["identity.min_similarity=1", "identity.min_sightings=1"])
    found = [recorded.replay(recording, one).score.identities_found for one in (site, alone)]
    assert found[0] < found[1]


def test_a_recording_of_another_encoder_is_refused(recording: Any, recorded: ModuleType, bundle: Path) -> None:
    other = replace(recording, facts=replace(recording.facts, encoder_hash="another"))
    with pytest.raises(InputError, match="not of the encoder"):
        recorded.replay(other, recorded.replay_site(other, bundle))


def test_a_site_gets_every_figure_and_a_table(
    recording_path: Path, identity: ModuleType, bundle: Path, tmp_path: Path
) -> None:
    found = identity.score_site(recording_path, bundle)
    assert 0 < found["score"]["idf1"] <= found["oracle"]["idf1"] <= 1
    assert found["tuned"]["idf1"] == max(found["sweep"].values())
    assert found["people"] == 4
    for seed, shift in ((7, 0.0), (8, 1.0)):
        found["score"]["idf1"] = shift
        identity.add_result(tmp_path / "result.json", "tiny", seed, {"cameras": 2, **found})
    table = identity.describe(json.loads((tmp_path / "result.json").read_text()))
    assert "| tiny | 2, 4 | 7, 8 | 0.500 (0.000 to 1.000) |" in table


KEYS = [("cam1", 1), ("cam1", 2), ("cam2", 1), ("cam2", 2)]


def test_two_people_in_one_identity_are_a_false_merge_however_often_they_meet(identity: ModuleType) -> None:
    people = dict(zip(KEYS, (1, 2, 1, 2), strict=True))
    assert identity.false_merges(dict(zip(KEYS, (7, 8, 7, 8), strict=True)), people) == 0
    assert identity.false_merges(dict.fromkeys(KEYS, 7), people) == 1
    assert identity.false_merges(dict.fromkeys(KEYS), people) == 0  # undecided is nobody


def test_a_person_with_two_identities_counts_as_two(identity: ModuleType) -> None:
    people = dict(zip(KEYS, (1, 2, 1, 2), strict=True))
    assert identity.splits(dict(zip(KEYS, (7, 8, 9, 8), strict=True)), people) == 1.5
    assert identity.splits(dict(zip(KEYS, (7, 8, None, 8), strict=True)), people) == 1.0


def by_hand(recorded: ModuleType) -> Any:
    """Resident 1 in both halves, stranger 2 in the second, a box each; embeddings of the three tracks."""
    facts = recorded.Facts(
        cameras=("cam1", "cam2"), encoder_hash="", precision="float", true_boxes=6, detected=5,
        pids=(1, 2), residents=(1,), half_at=100.0,
    )  # fmt: skip
    ended = [(0, 10, 50.0, 1), (0, 30, 150.0, 2), (1, 40, 160.0, 1)]
    return recorded.Recording(
        facts=facts,
        boxes_B=np.empty(0, dtype=recorded.BOX),
        ended_E=np.array(ended, dtype=recorded.ENDED),
        pictures_P=np.array([(*row, 1.0) for row in ended], dtype=recorded.PICTURE),
        embeddings_PD=np.array([(1, 0), (1, 0), (0.8, 0.6)], dtype=np.float32),
        agreements_A=np.array([(1, 0, 1, 2), (1, 0, 2, 2), (2, 1, 1, 1)], dtype=recorded.AGREEMENT),
        counted_C=np.array([(0, 1, 2), (0, 2, 2), (1, 1, 1), (1, 9, 3)], dtype=recorded.COUNTED),
    )


def test_an_undecided_track_says_nothing_or_is_somebody_of_its_own(recorded: ModuleType) -> None:
    recording = by_hand(recorded)
    silent = recording.score({("cam1", 1): 7, ("cam1", 2): 7, ("cam2", 1): None})
    assert (silent.precision, silent.recall) == (1.0, 4 / 6)  # three boxes of nobody were not said to be somebody
    alone = recording.score({("cam1", 1): 7, ("cam1", 2): 7, ("cam2", 1): None}, alone=True)
    assert (alone.precision, alone.recall) == (5 / 8, 5 / 6)
    assert silent.detection_f1 == alone.detection_f1 == 10 / 14


@pytest.mark.parametrize(
    ("identities", "false_match", "missed_match", "undecided"),
    [
        ((7, 7, 8), 0.0, 0.0, 0.0),
        ((7, 8, 9), 0.0, 1.0, 0.0),  # the resident is somebody new
        ((7, 7, 7), 1.0, 0.0, 0.0),  # the stranger is taken for the resident
        ((7, 7, None), 0.0, 0.0, 1 / 3),
    ],
)
def test_errors_of_the_second_half_are_counted_by_tracks(
    identity: ModuleType,
    recorded: ModuleType,
    identities: tuple[int | None, ...],
    false_match: float,
    missed_match: float,
    undecided: float,
) -> None:
    keys = [("cam1", 1), ("cam1", 2), ("cam2", 1)]
    found = identity.live_errors(dict(zip(keys, identities, strict=True)), by_hand(recorded))
    assert found == pytest.approx(
        {"false_match": false_match, "missed_match": missed_match, "undecided": undecided}
    )  # fmt: skip


def test_the_plain_baseline_takes_the_nearest_identity_that_is_near_enough(
    identity: ModuleType, recorded: ModuleType
) -> None:
    recording = by_hand(recorded)
    assert list(identity.greedy_identities(recording, 0.9).values()) == [0, 0, 1]
    assert list(identity.greedy_identities(recording, 0.7).values()) == [0, 0, 0]


def test_the_ways_between_cameras_take_as_long_as_they_are_apart(sites: ModuleType) -> None:
    plan = sites.plan(sites.SITES["small"])
    by_person: dict[int, list[Any]] = {}
    for visit in plan.visits:
        by_person.setdefault(visit.person.pid, []).append(visit)
    ways = [b.start - a.end for own in by_person.values() for a, b in pairwise(own)]
    assert min(ways) > 0  # nobody is in two places at once
    assert len(by_person) == 40
    strangers = [visit for visit in plan.visits if visit.person.pid > 20]
    assert min(visit.start for visit in strangers) >= sites.SITES["small"].half_seconds[0]


def test_the_day_before_shows_other_people_to_the_same_cameras(sites: ModuleType) -> None:
    live, before = (sites.plan(sites.TINY, day) for day in ("live", "before"))
    assert (live.scenes[0].background == before.scenes[0].background).all()
    assert {visit.person for visit in live.visits}.isdisjoint({visit.person for visit in before.visits})
