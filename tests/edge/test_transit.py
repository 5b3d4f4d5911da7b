from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from reidge.edge.transit import Transits

Box = tuple[float, float, float, float]
HERE: Box = (0, 0, 40, 100)


@dataclass
class Pass:
    camid: str
    started_at: float
    last_seen: float
    first_box: Box = HERE
    box: Box = HERE


def taught(transits: Transits, ways: int) -> Transits:
    """Every minute somebody leaves a for b in 7 s, while another left c half a minute before."""
    for minute in range(ways):
        at = 60.0 * minute
        right, wrong = Pass("a", at - 5, at), Pass("c", at - 35, at - 30)
        transits.learn(Pass("b", at + 7, at + 12), [right, wrong], [0], others=20)
    return transits


def evidence(transits: Transits, before: Pass, after: Pass) -> float:
    return float(transits.evidence([before], [after])[0, 0])


def test_nothing_learned_says_nothing() -> None:
    assert evidence(Transits(), Pass("a", 0, 5), Pass("b", 12, 20)) == pytest.approx(0.0, abs=0.1)


def test_who_comes_after_the_usual_time_is_likelier_the_same_the_more_is_learned() -> None:
    some, more = (taught(Transits(), ways) for ways in (3, 30))
    usual = Pass("a", 0, 5), Pass("b", 12, 20)
    assert 0 < evidence(some, *usual) < evidence(more, *usual)


def test_who_comes_at_an_unusual_time_is_less_likely_but_never_ruled_out() -> None:
    transits = taught(Transits(), 30)
    assert -0.5 < evidence(transits, Pass("c", 0, 5), Pass("b", 42, 50)) < 0


def test_what_is_learned_of_one_way_says_a_little_of_others() -> None:
    transits = taught(Transits(), 30)
    here, elsewhere = (evidence(transits, Pass(camid, 0, 5), Pass("b", 12, 20)) for camid in ("a", "d"))
    assert 0 < elsewhere < here


def test_those_who_overlap_in_time_have_no_way_between_them() -> None:
    assert evidence(taught(Transits(), 30), Pass("a", 0, 5), Pass("b", 3, 9)) == 0.0


def test_a_track_that_begins_where_another_was_just_lost_is_probably_the_same() -> None:
    transits = taught(Transits(), 5)
    lost = Pass("a", 0, 5, box=(100, 0, 140, 100))
    assert evidence(transits, lost, Pass("a", 5.4, 9, first_box=(120, 0, 160, 100))) > 1.0


def test_nobody_crosses_the_view_in_no_time() -> None:
    lost = Pass("a", 0, 5, box=(100, 0, 140, 100))
    far, late = Pass("a", 5.4, 9, first_box=(500, 0, 540, 100)), Pass("a", 9.0, 12, first_box=(500, 0, 540, 100))
    assert Transits().impossible([lost], [far, late]).tolist() == [[True, False]]


def test_where_no_place_is_known_none_is_judged() -> None:
    """Sightings that were read from the gallery's file have no boxes."""
    lost, found = Pass("a", 0, 5, box=(0, 0, 0, 0)), Pass("a", 5.4, 9, first_box=(500, 0, 540, 100))
    assert not Transits().impossible([lost], [found]).any()
    assert evidence(taught(Transits(), 5), lost, found) < 0.1


def test_nobody_is_faster_than_the_user_says_in_either_direction() -> None:
    transits = Transits({("a", "b"): (10.0, 60.0)})
    early, in_time = Pass("b", 14, 20), Pass("b", 16, 20)
    assert transits.impossible([Pass("a", 0, 5)], [early, in_time]).tolist() == [[True, False]]
    assert transits.impossible([Pass("b", 0, 5)], [Pass("a", 14, 20)]).tolist() == [[True]]


def test_times_the_user_gives_count_before_anything_is_learned() -> None:
    transits = Transits({("a", "b"): (10.0, 20.0)})
    transits.learn(Pass("b", 100, 101), [Pass("a", 0, 5), Pass("c", 0, 30)], [], others=50)
    inside, outside = (evidence(transits, Pass("a", 0, 5), Pass("b", 5 + gap, 99)) for gap in (13.0, 200.0))
    assert inside > outside


def test_somebody_from_long_ago_is_likely_where_people_come_back_after_long() -> None:
    transits = Transits()
    for minute in range(30):
        at = 60.0 * minute
        transits.learn(Pass("b", at + 7, at + 12), [Pass("a", at - 5, at)], [-1], others=20)
    often = float(transits.evidence_long([Pass("b", 0, 1)])[0])
    rarely = float(taught(Transits(), 30).evidence_long([Pass("b", 0, 1)])[0])
    assert rarely < often


def test_evidence_is_told_for_all_pairs_at_once() -> None:
    transits = taught(Transits(), 10)
    before = [Pass("a", 0, 5), Pass("c", 0, 3), Pass("b", 0, 1)]
    after = [Pass("b", 12, 13), Pass("a", 40, 41)]
    alone = [[evidence(transits, p, q) for q in after] for p in before]
    assert transits.evidence(before, after) == pytest.approx(np.array(alone))
