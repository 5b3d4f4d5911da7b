from __future__ import annotations

import math

import pytest

from reidge.edge.bars import MOST, Bars, bars_of
from reidge.edge.bundle import ThresholdReport

REPORT = ThresholdReport(min_similarity=0.6, false_match_rate=0.01, tail_decay=0.05)


def test_the_bar_rises_by_one_decay_for_every_e_fold_more_people() -> None:
    bars = bars_of(REPORT, min_similarity=0.6, fixed=False, stranger_rate=0.1)
    assert bars.at(10) == pytest.approx(0.6)  # one in ten strangers at one in a hundred each
    assert bars.at(round(10 * math.e**2)) == pytest.approx(0.7, abs=1e-3)


def test_few_people_do_not_lower_the_bar_below_the_calibrated_one() -> None:
    assert bars_of(REPORT, min_similarity=0.6, fixed=False, stranger_rate=0.1).at(0) == 0.6


def test_however_many_people_there_are_somebody_can_still_be_recognised() -> None:
    assert bars_of(REPORT, min_similarity=0.6, fixed=False, stranger_rate=0.1).at(10**9) == MOST


def test_no_number_of_people_makes_a_bar_that_is_higher_than_that_lower() -> None:
    assert Bars(min_similarity=0.98, false_match_rate=0.01).at(1000) == 0.98


def test_a_bar_that_the_user_set_stays() -> None:
    assert bars_of(REPORT, min_similarity=0.7, fixed=True, stranger_rate=0.1).at(10**6) == 0.7


def test_an_older_bundle_tells_the_decay_by_its_quantiles() -> None:
    """From a twentieth to a hundredth of different people the tail falls by a factor of 5."""
    report = REPORT.model_copy(
        update={"tail_decay": None, "different_quantiles": {"0.95": 0.3, "0.99": 0.3 + 0.06 * math.log(5)}}
    )
    assert bars_of(report, min_similarity=0.6, fixed=False, stranger_rate=0.1).decay == pytest.approx(0.06)


def test_people_the_user_enrolled_are_recognised_at_a_lower_bar() -> None:
    assert Bars(min_similarity=0.6, decay=0.1).enrolled_lead == pytest.approx(0.0693, abs=1e-4)


def test_the_bar_never_turns_away_who_was_just_seen() -> None:
    report = REPORT.model_copy(update={"same_quantiles": {"0.05": 0.66}})
    bars = bars_of(report, min_similarity=0.6, fixed=False, stranger_rate=0.1)
    assert bars.at(10) == pytest.approx(0.6)
    assert bars.at(1000) == 0.66


def test_the_bar_is_not_below_the_calibrated_one_where_tracks_mix_people() -> None:
    report = REPORT.model_copy(update={"same_quantiles": {"0.05": 0.42}})
    bars = bars_of(report, min_similarity=0.6, fixed=False, stranger_rate=0.1)
    assert bars.at(10) == bars.at(1000) == 0.6
