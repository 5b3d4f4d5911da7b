from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reidge.calibration.pairs import Ends, PairSimilarities, collect_pairs, sample_records
from reidge.calibration.tails import (
    CERTAIN_POWER,
    certain_tail,
    counted_tail,
    exponential_tail,
    least_above,
    mixed_tail,
    quantile_of_ordered,
)
from reidge.calibration.threshold import calibrate_threshold, choose_threshold, rate_curve
from reidge.edge.crops import CropRecord

Vectors = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def crop(tracklet: str, second: float, *, camid: str = "cam1", x1: float = 0) -> CropRecord:
    return CropRecord(
        path=f"{tracklet}/{second}.jpg",
        camid=camid,
        tracklet=tracklet,
        captured_at=1e9 + second,
        x1=x1,
        y1=0,
        x2=x1 + 50,
        y2=100,
        score=1,
        sharpness=1,
    )


def at_degrees(*angles: float) -> Vectors:
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def pairs_of(
    *, different: int = 0, same: tuple[float, ...] = (), tracklets: int = 0, everyone: tuple[float, ...] = ()
) -> PairSimilarities:
    return PairSimilarities(
        tracklets=tracklets,
        different_P=np.arange(different) / max(different, 1),
        same_P=np.array(same),
        all_P=np.array(everyone),
    )


def test_tracklets_in_view_at_once_are_different_and_later_ones_are_not_known() -> None:
    records = [crop("a", 0), crop("a", 2), crop("b", 1, x1=200), crop("b", 3, x1=200), crop("c", 9), crop("c", 11)]
    pairs = collect_pairs(at_degrees(0, 0, 60, 60, 0, 0), records)
    np.testing.assert_allclose(pairs.different_P, [0.5], atol=1e-6)  # a and b, 60 degrees apart
    np.testing.assert_allclose(pairs.all_P, [0.5, 1, 0.5], atol=1e-6)
    np.testing.assert_allclose(pairs.same_P, [1, 1, 1], atol=1e-6)


def test_other_cameras_count_only_where_views_are_separate() -> None:
    records = [crop("a", 0), crop("a", 2), crop("b", 1, camid="cam2"), crop("b", 3, camid="cam2")]
    embeddings_ND = at_degrees(0, 0, 60, 60)
    assert len(collect_pairs(embeddings_ND, records).different_P) == 0
    assert len(collect_pairs(embeddings_ND, records, separate_views=True).different_P) == 1


def test_a_person_detected_twice_is_not_two_people() -> None:
    # Both walk 100 pixels to the right in two seconds; at second 1, where only a has a crop, b is at the same place.
    twice = [crop("a", 0), crop("a", 1, x1=50), crop("b", 0.5, x1=20), crop("b", 1.5, x1=80)]
    assert len(collect_pairs(at_degrees(0, 0, 0, 0), twice).different_P) == 0
    # Two who walk side by side stay two.
    beside = [crop("a", 0), crop("a", 1, x1=50), crop("b", 0.5, x1=120), crop("b", 1.5, x1=180)]
    assert len(collect_pairs(at_degrees(0, 0, 0, 0), beside).different_P) == 1


def test_crops_without_a_clock_are_not_all_in_view_at_once() -> None:
    records = [crop("a", 0), crop("b", 0, x1=200), crop("c", 0, x1=400)]
    assert len(collect_pairs(at_degrees(0, 60, 90), records).different_P) == 0


def test_halves_are_first_against_second_in_time_whatever_the_order_of_rows() -> None:
    records = [crop("a", second) for second in (3, 0, 2, 1)]
    pairs = collect_pairs(at_degrees(60, 0, 60, 0), records)  # 0 degrees at seconds 0 and 1, 60 at 2 and 3
    np.testing.assert_allclose(pairs.same_P, [0.5], atol=1e-6)


def test_tracklets_are_compared_by_the_direction_of_their_mean() -> None:
    records = [crop("a", 0), crop("a", 1), crop("b", 5), crop("b", 6)]
    pairs = collect_pairs(at_degrees(-30, 30, 0, 0), records)
    np.testing.assert_allclose(pairs.all_P, [1], atol=1e-6)


@pytest.mark.parametrize(("rate", "passing"), [(0.01, 10), (0.05, 50)])
def test_at_most_the_wanted_share_of_different_people_passes(rate: float, passing: int) -> None:
    pairs = pairs_of(different=1000, same=(0.2, 0.9999), tracklets=40)
    report = choose_threshold(pairs, false_match_rate=rate)
    assert report.min_similarity is not None
    assert int((pairs.different_P >= report.min_similarity).sum()) == passing
    assert report.method == "1000 pairs of tracklets in view at the same time"
    assert report.same_match_rate == 0.5


def exponential(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Evenly spaced quantiles of an exponential distribution of mean 0.1."""
    return -0.1 * np.log((np.arange(count) + 0.5) / count)


def test_an_exponential_tail_is_read_off_exactly() -> None:
    assert exponential_tail(exponential(10_000)).similarity(0.01) == pytest.approx(0.1 * np.log(100), rel=0.01)
    assert exponential_tail(exponential(10_000)).similarity(0.001) == pytest.approx(0.1 * np.log(1000), rel=0.01)


@pytest.mark.parametrize("level", [0.0, 0.3, 0.123, 0.999, 1.0])
def test_a_quantile_of_ordered_values_is_numpys(level: float) -> None:
    values = np.sort(np.random.default_rng(0).normal(size=37))
    assert quantile_of_ordered(values, level) == pytest.approx(np.quantile(values, level))


@pytest.mark.parametrize("same_share", [0.0, 0.02, 0.1])
def test_pairs_of_one_person_are_taken_out_of_the_tail(same_share: float) -> None:
    different = exponential(20_000)
    same = np.linspace(0.9, 1.0, int(same_share * len(different)))
    expected = 0.1 * np.log(500)
    tail = mixed_tail(np.concatenate([different, same]), 0.002)
    assert tail.similarity(0.002) == pytest.approx(expected, rel=0.05)
    assert tail.decay == pytest.approx(0.1, rel=0.05)


def test_one_mistaken_pair_among_seventy_hardly_moves_the_threshold() -> None:
    clean = exponential(70)
    spoilt = np.append(clean, 0.95)  # a track that changed from one person to the other
    found, expected = (exponential_tail(values).similarity(0.01) for values in (spoilt, clean))
    assert found == pytest.approx(expected, rel=0.2)
    report = choose_threshold(replace(pairs_of(tracklets=40), different_P=spoilt), false_match_rate=0.01)
    assert report.min_similarity == pytest.approx(0.1 * np.log(100), rel=0.25)
    assert report.method == "tail of 71 pairs of tracklets in view at the same time"


def test_beyond_what_was_counted_the_tail_goes_on() -> None:
    tail = counted_tail(exponential(10_000), 0.01)
    assert tail.similarity(0.01) == pytest.approx(0.1 * np.log(100), rel=0.01)
    assert tail.similarity(0.0001) == pytest.approx(0.1 * np.log(10_000), rel=0.05)


@pytest.mark.parametrize("count", [60, 2000, 20_000])
def test_the_report_says_which_similarity_any_rate_asks_for(count: int) -> None:
    pairs = replace(pairs_of(tracklets=40), different_P=exponential(count))
    report = choose_threshold(pairs, false_match_rate=0.01)
    assert report.similarity_at(0.01) == report.min_similarity
    assert report.similarity_at(0.001) == pytest.approx(0.1 * np.log(1000), rel=0.1)
    assert report.similarity_at(1e-9) == 1.0


def test_a_tail_of_certain_pairs_is_read_off_a_power_of_the_similarity() -> None:
    tail = certain_tail(exponential(10_000) ** (1 / CERTAIN_POWER))
    expected = (0.1 * np.log(1000)) ** (1 / CERTAIN_POWER)
    assert tail.similarity(0.001) == pytest.approx(expected, rel=0.02)
    assert tail.slope(0.001) == pytest.approx(tail.similarity(0.001 / np.e) - tail.similarity(0.001), rel=0.1)


def test_a_pair_of_lookalikes_who_are_often_in_view_together_does_not_decide_a_tail_of_certain_pairs() -> None:
    clean = exponential(500) ** (1 / CERTAIN_POWER)
    spoilt = np.append(clean, [0.99] * 3)
    assert certain_tail(spoilt).similarity(0.003) == pytest.approx(certain_tail(clean).similarity(0.003), rel=0.1)


def test_with_enough_pairs_in_two_cameras_those_in_one_camera_are_left_out() -> None:
    # 21 people are in view at once, one of them in two tracklets of cam1 and everybody else in a camera of their own.
    records = [crop("twin", 0), crop("twin", 9)]
    records += [crop(str(n), second, camid=f"cam{n}", x1=300) for n in range(1, 22) for second in (0, 9)]
    embeddings_ND = at_degrees(0, 0, *(angle for n in range(1, 22) for angle in (10 * n, 10 * n)))
    pairs = collect_pairs(embeddings_ND, records, separate_views=True)
    assert pairs.certain
    assert len(pairs.different_P) == 22 * 21 // 2 - 1  # all but the two of cam1
    report = choose_threshold(pairs, false_match_rate=0.01)
    assert report.method == "tail of 230 pairs of tracklets in two cameras at the same time"
    assert not collect_pairs(embeddings_ND[:20], records[:20], separate_views=True).certain  # too few


def test_where_no_tail_is_known_every_rate_asks_for_the_one_threshold() -> None:
    report = choose_threshold(pairs_of(same=(0.7, 0.8, 0.9), tracklets=3), false_match_rate=0.01)
    assert report.similarity_at(1e-6) == report.min_similarity == 0.7
    assert choose_threshold(pairs_of(), false_match_rate=0.01).similarity_at(0.01) is None


def test_equal_similarities_pass_together_or_not_at_all() -> None:
    assert (np.full(100, 0.4) >= least_above(np.full(100, 0.4), 0.5)).sum() == 0


def test_with_few_known_pairs_all_pairs_stand_in_and_the_report_says_so() -> None:
    # A fiftieth of the pairs are in truth the same person.
    everyone = (*exponential(980), *np.linspace(0.85, 0.95, 20))
    pairs = pairs_of(different=3, same=(0.9,) * 20, tracklets=46, everyone=everyone)
    report = choose_threshold(pairs, false_match_rate=0.01)
    assert report.min_similarity is not None
    assert 0.1 * np.log(100) <= report.min_similarity < 0.7
    assert "estimate from the tail of all 1000 pairs" in report.method
    assert "too few were in view at the same time (3)" in report.method


def test_an_estimate_never_keeps_people_from_matching_themselves() -> None:
    # Four people over and over: a third of all pairs is the same person, and the spread says nothing.
    everyone = (*np.linspace(0.4, 0.7, 60), *np.linspace(0.8, 0.95, 31))
    same = (0.6, 0.8, 0.85, 0.88, 0.9)
    report = choose_threshold(pairs_of(same=same, tracklets=14, everyone=everyone), false_match_rate=0.01)
    assert report.min_similarity == 0.8
    assert report.same_match_rate == 0.8


def test_with_few_tracklets_the_least_similar_halves_decide() -> None:
    report = choose_threshold(pairs_of(same=(0.8, 0.7, 0.9), tracklets=3), false_match_rate=0.01)
    assert report.min_similarity == pytest.approx(0.7)
    assert "too few tracklets (3)" in report.method


def test_with_nothing_to_go_by_there_is_no_threshold() -> None:
    report = choose_threshold(pairs_of(same=(0.8,), tracklets=1), false_match_rate=0.01)
    assert report.min_similarity is None
    assert report.same_match_rate is None
    assert report.method.startswith("not calibrated")


def test_strangers_do_not_match_at_the_calibrated_threshold() -> None:
    """Thirty people of 32-d appearance, two in view at a time: calibrated on them, held against thirty others."""
    rng = np.random.default_rng(0)

    def see(people: int) -> tuple[Vectors, list[CropRecord]]:
        centres = rng.normal(size=(people, 32)) + 0.5
        shots = [(pid, shot) for pid in range(people) for shot in range(6)]
        noisy = np.stack([centres[pid] + 0.5 * rng.normal(size=32) for pid, _ in shots])
        records = [crop(f"t{pid}", 10 * (pid // 15) + shot, x1=100 * (pid % 15)) for pid, shot in shots]
        return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32), records

    report = calibrate_threshold(*see(30), false_match_rate=0.01)
    assert report.min_similarity is not None
    assert report.different_pairs == 210
    assert report.same_match_rate == 1
    others = collect_pairs(*see(30)).all_P  # 435 pairs of different people, none seen before
    assert (others >= report.min_similarity).mean() < 0.04


def test_samples_are_spread_in_time_and_keep_tracklets_together() -> None:
    records = [crop(f"t{tracklet}", 100 * tracklet + shot) for tracklet in range(20) for shot in range(9)]
    chosen = sample_records(records, max_tracklets=5, max_crops=3, seed=0)
    tracklets = sorted({int(records[index].tracklet[1:]) for index in chosen})
    assert tracklets == list(range(tracklets[0], tracklets[0] + 5))
    assert [records[index].captured_at % 100 for index in chosen[:3]] == [0, 4, 8]
    assert len(chosen) == 15


def everyone_at_once(similarities_TT: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> PairSimilarities:
    """Tracklets all in view at the same time, with these similarities; the halves of each are alike."""
    ends_P2 = np.stack(np.triu_indices(len(similarities_TT), k=1), axis=1)
    all_P = similarities_TT[ends_P2[:, 0], ends_P2[:, 1]]
    same_P, halved_P = np.full(len(similarities_TT), 0.95), np.arange(len(similarities_TT))
    return PairSimilarities(
        tracklets=len(similarities_TT),
        different_P=all_P,
        same_P=same_P,
        all_P=all_P,
        ends=Ends(different_P2=ends_P2, same_P=halved_P, all_P2=ends_P2),
    )


def test_one_odd_tracklet_is_one_piece_of_evidence_and_not_as_many_as_it_has_pairs() -> None:
    # Of 12 people one looks like all others: 11 of 66 pairs, 0.167, reach 0.9. Resampled as pairs that would be known
    # to within 0.09; yet a draw of 12 misses that one person in a third of all cases, and then no pair reaches 0.9.
    similarities_TT = np.full((12, 12), 0.1)
    similarities_TT[0] = similarities_TT[:, 0] = 0.9
    report = choose_threshold(everyone_at_once(similarities_TT), false_match_rate=0.2)
    assert report.min_similarity == pytest.approx(0.1)  # 13 of 66 pairs may pass, and 11 do
    assert report.found_false_match_rate == pytest.approx(11 / 66)
    assert report.found_false_match_interval is not None
    low, high = report.found_false_match_interval
    assert low == 0
    assert 0.3 < high < 0.7


def test_no_false_match_among_few_people_is_no_proof_that_there_is_none() -> None:
    # With 16 people there are 8 pairs without anybody in common: 1 - 0.05 ** (1/8) = 0.312.
    report = choose_threshold(everyone_at_once(np.full((16, 16), 0.1)), false_match_rate=0.1)
    assert report.found_false_match_rate == 0
    assert report.found_false_match_interval == pytest.approx((0, 0.3123), abs=1e-4)
    assert report.same_match_rate == 1
    assert report.same_match_interval == pytest.approx((1 - 0.1707, 1), abs=1e-4)  # 1 - 0.05 ** (1/16)


def see_strangers(rng: np.random.Generator, people: int) -> PairSimilarities:
    centres = rng.normal(size=(people, 24)) * np.linspace(2, 0.2, 24)
    units = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    return everyone_at_once(units @ units.T)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = np.quantile(see_strangers(rng, 1500).different_P, 0.95)
    hits = 0
    for _ in range(60):
        report = choose_threshold(see_strangers(rng, 40), false_match_rate=0.05)
        assert report.min_similarity_interval is not None
        low, high = report.min_similarity_interval
        hits += int(low <= truth <= high)
    assert hits >= 54  # 95 % of 60 is 57; fewer than 54 come once in 30 times if the intervals are right


def test_the_seed_decides_the_interval_and_nothing_else() -> None:
    pairs = see_strangers(np.random.default_rng(1), 20)
    first, again, other = (choose_threshold(pairs, false_match_rate=0.05, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first.min_similarity == other.min_similarity


def test_without_a_threshold_or_without_knowing_whose_pairs_there_are_no_intervals() -> None:
    nothing = choose_threshold(pairs_of(same=(0.8,), tracklets=1), false_match_rate=0.01)
    assert (nothing.min_similarity_interval, nothing.found_false_match_rate) == (None, None)
    unknown = choose_threshold(pairs_of(different=1000, same=(0.8,), tracklets=40), false_match_rate=0.01)
    assert (unknown.min_similarity_interval, unknown.same_match_interval) == (None, None)
    assert unknown.found_false_match_rate == 0.01


def test_the_curve_falls_and_lies_in_its_band() -> None:
    pairs = see_strangers(np.random.default_rng(2), 30)
    curve = rate_curve(pairs)
    assert curve.different is not None
    assert curve.same is not None
    assert (np.diff(curve.different.rate_C) <= 0).all()
    assert (curve.different.low_C <= curve.different.rate_C).all()
    assert (curve.different.rate_C <= curve.different.high_C).all()
    assert curve.different.rate_C[0] == 1
    at = int(np.searchsorted(curve.similarity_C, 0.5))
    assert curve.different.rate_C[at] == np.mean(pairs.different_P >= curve.similarity_C[at])
    assert rate_curve(pairs_of(same=(0.5, 0.9), tracklets=2)).different is None
