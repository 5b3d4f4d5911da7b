"""mAP, CMC and mINP, one query and one gallery image at a time, and the streamed figures."""

from __future__ import annotations

import numpy as np
import pytest

from reidge.train import evaluate
from reidge.train.evaluate import Ranking, evaluate_ranking


def literal_ranking(
    query: np.ndarray,
    gallery: np.ndarray,
    query_pids: np.ndarray,
    gallery_pids: np.ndarray,
    query_camids: np.ndarray,
    gallery_camids: np.ndarray,
) -> Ranking:
    precisions, penalties, firsts = [], [], []
    for q in range(len(query)):
        listed = []
        for g in range(len(gallery)):
            same = gallery_pids[g] == query_pids[q]
            if not (same and gallery_camids[g] == query_camids[q]):
                listed.append((float(((query[q] - gallery[g]) ** 2).sum()), g, bool(same)))
        listed.sort()
        ranks = [rank for rank, (_, _, same) in enumerate(listed, 1) if same]
        if not ranks:
            precisions.append(np.nan)
            continue
        total = 0.0
        for distance, _, same in listed:
            if same:  # images at one distance count as one step
                step = [match for far, _, match in listed if far <= distance]
                total += sum(step) / len(step)
        precisions.append(total / len(ranks))
        firsts.append(ranks[0])
        penalties.append(len(ranks) / ranks[-1])
    cmc = [np.mean([first <= r for first in firsts]) for r in range(1, min(50, len(gallery)) + 1)]
    return Ranking(
        mAP=float(np.nanmean(precisions)), cmc=np.array(cmc), mINP=float(np.mean(penalties)), ap_Q=np.array(precisions)
    )


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("at_once", [1, 500, 1 << 25])
def test_streamed_figures_equal_the_literal_ones(monkeypatch: pytest.MonkeyPatch, ties: bool, at_once: int) -> None:
    monkeypatch.setattr(evaluate, "DISTANCES_AT_ONCE", at_once)
    rng = np.random.default_rng(3)
    query, gallery = rng.normal(size=(25, 3)), rng.normal(size=(120, 3))
    if ties:  # whole numbers lie at few distances, all exact
        query, gallery = query.round(), gallery.round()
    arguments = (
        query, gallery, rng.integers(0, 8, 25), rng.integers(1, 8, 120), rng.integers(0, 3, 25), rng.integers(0, 3, 120)
    )  # fmt: skip
    found, expected = evaluate_ranking(*arguments), literal_ranking(*arguments)
    assert np.isnan(expected.ap_Q).any()  # person 0 is nowhere in the gallery
    np.testing.assert_allclose(found.ap_Q, expected.ap_Q, atol=1e-12)
    np.testing.assert_allclose(found.cmc, expected.cmc, atol=1e-12)
    assert found.mAP == pytest.approx(expected.mAP)
    assert found.mINP == pytest.approx(expected.mINP)
