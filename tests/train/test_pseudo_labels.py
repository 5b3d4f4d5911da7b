from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from reidge.edge.errors import ReidgeError
from reidge.train.batches import read_crops
from reidge.train.cluster import OUTLIER
from reidge.train.distributed import World
from reidge.train.pseudo_labels import pseudo_labels
from reidge.train.recipe import load_recipe
from reidge.train.run import Run, open_run
from reidge.train.run_folder import Progression

if TYPE_CHECKING:
    from pathlib import Path

CROPS = 64


@pytest.fixture
def run(crops: Path, tmp_path: Path) -> Run:
    """A run about to cluster, with an eps that joins whatever shares a neighbour."""
    return opened(crops, tmp_path, "cluster.eps=0.95")


def opened(crops: Path, tmp_path: Path, *overrides: str) -> Run:
    fixed = (
        "encoder.input_size=[64, 32]",
        "warmup.epochs=0",
        "cluster.k1=6",
        "cluster.min_samples=2",
        "loop.device=cpu",
    )
    recipe = load_recipe("quick", [*fixed, *overrides])
    return open_run(recipe, crops, tmp_path / "run", None, world=World(), device="cpu")


def grouped(sizes: list[int]) -> torch.Tensor:
    """Unit vectors of 64 crops in tight groups at right angles."""
    groups = torch.eye(8)[torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))]
    noise = 0.01 * torch.randn(CROPS, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(groups + noise, dim=1)


def progression() -> Progression:
    return Progression(rng=np.random.default_rng(0), history=[])


def test_groups_become_clusters_with_scores(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    labelling = pseudo_labels(run, progression(), grouped([16, 16, 16, 16]))
    np.testing.assert_array_equal(labelling.labels_N, np.repeat([0, 1, 2, 3], 16))
    assert labelling.eps == 0.95
    assert labelling.agreement is None  # with what?
    assert labelling.silhouette == pytest.approx(1, abs=0.05)
    assert labelling.tracklets == pytest.approx(0.8)  # whole, but a fifth of the pairs across tracklets share a cluster
    assert "cluster holds" not in capsys.readouterr().err


def test_a_cluster_that_swallows_most_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    labelling = pseudo_labels(run, progression(), grouped([50, 14]))
    assert labelling.labels_N.max() == 1
    assert "one cluster holds 50 of 64 clustered crops (eps 0.95)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("cluster.eps=0.95", "1 clusters among 64 crops (0 outliers)"),
        ("cluster.min_samples=40", "0 clusters among 64 crops (64 outliers)"),
    ],
)
def test_with_one_cluster_or_none_the_tracklets_stand_in_for_two_epochs(
    override: str, found: str, crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, state, features = opened(crops, tmp_path, override), progression(), grouped([64])
    for _ in range(2):
        np.testing.assert_array_equal(pseudo_labels(run, state, features).labels_N, run.images.tracklets)
        assert f"clustering found {found}; this epoch goes on with the tracklets" in capsys.readouterr().err
    with pytest.raises(ReidgeError, match=r"3 times in a row.*--set cluster\.eps"):
        pseudo_labels(run, state, features)


def test_the_last_clusters_stand_in_once_there_are_any(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    state = progression()
    good = pseudo_labels(run, state, grouped([16, 16, 16, 16])).labels_N
    bad = pseudo_labels(run, state, grouped([64])).labels_N
    np.testing.assert_array_equal(bad, good)
    assert "goes on with the last clusters" in capsys.readouterr().err
    pseudo_labels(run, state, grouped([16, 16, 16, 16]))
    assert state.failures == 0  # only failures in a row count


def test_images_that_became_unreadable_are_outliers(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(crops, tmp_path / "crops")
    run = opened(folder, tmp_path, "cluster.eps=0.95", "data.cache_gib=0")
    for image in (0, 17):
        run.images.paths[image].write_bytes(b"torn")
    run.images.take(np.arange(CROPS))
    assert capsys.readouterr().err.count("warning") >= 2
    labels = pseudo_labels(run, progression(), grouped([16, 16, 16, 16]), run.images.unreadable).labels_N
    assert labels[[0, 17]].tolist() == [OUTLIER, OUTLIER]
    assert sorted(set(labels.tolist())) == [OUTLIER, 0, 1, 2, 3]


def test_another_image_of_its_cluster_stands_in_for_an_unreadable_one(crops: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(crops, tmp_path / "crops")
    run = opened(folder, tmp_path, "data.cache_gib=0")
    labels = np.repeat(np.arange(16), 4)
    run.images.paths[5].write_bytes(b"torn")
    taken = read_crops(run, np.array([0, 1, 4, 5, 6]), labels)
    np.testing.assert_array_equal(taken[3], taken[2])
    assert (taken.reshape(5, -1).max(axis=1) > 0).all()
