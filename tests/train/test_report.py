from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from reidge.edge.errors import ReidgeError
from reidge.train.charts import Chart, charts
from reidge.train.datasets import open_benchmark
from reidge.train.histogram import SIZE, embed_histograms
from reidge.train.images import DataConfig, read_training_images
from reidge.train.labels import OUTLIER
from reidge.train.recipe import load_recipe
from reidge.train.report import write_report
from reidge.train.run_folder import EpochRecord

if TYPE_CHECKING:
    from pathlib import Path

    from reidge.train.images import TrainingImages


def record(epoch: int, **figures: Any) -> EpochRecord:
    known: dict[str, Any] = {
        "phase": "cluster", "loss": 1.0, "clusters": 8, "outliers": 3, "eps": 0.5, "lr": 1e-3, "seconds": 2.0
    }  # fmt: skip
    return EpochRecord(epoch=epoch, images_per_second=10.0, **(known | figures))


HISTORY = (
    record(1, phase="warmup", eps=None, outliers=0),
    record(2, silhouette=-0.2, tracklets=0.5),
    record(3, silhouette=0.3, tracklets=0.6, agreement=0.9, mAP=0.25, rank1=0.5),
)


@pytest.fixture(scope="module")
def images(crops: Path) -> TrainingImages:
    return read_training_images(crops, DataConfig(), size=SIZE, resize="linear", quiet=True)


def write(run_dir: Path, images: TrainingImages, labels_N: np.ndarray | None, split: Path | None = None) -> str:
    benchmark = None if split is None else open_benchmark(split, quiet=True)
    write_report(run_dir, load_recipe("quick"), HISTORY, images, labels_N, embed_histograms, benchmark)
    return (run_dir / "report.html").read_text()


def pictures(page: str) -> list[np.ndarray]:
    """Decode what is in the page, as a browser would."""
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', page)
    decoded = [cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR) for data in found]
    return [np.asarray(picture) for picture in decoded if picture is not None]


def titles(drawn: list[Chart]) -> list[str]:
    return [chart.title for chart in drawn]


def test_every_figure_of_the_history_has_its_chart() -> None:
    assert titles(charts(HISTORY)) == [
        "loss", "clusters", "outliers", "eps", "learning rate", "mAP and rank-1, %",
        "agreement with the last clusters", "silhouette", "tracklets kept whole",
    ]  # fmt: skip


def test_figures_that_nobody_has_are_not_drawn() -> None:
    assert titles(charts(HISTORY[:1])) == ["loss", "clusters", "outliers", "learning rate"]


def test_a_student_has_no_clusters_to_draw() -> None:
    # While an encoder learns from another, every crop stands for itself.
    assert titles(charts([record(1, phase="distil", eps=None, clusters=64)])) == ["loss", "learning rate"]


def test_a_point_stands_at_its_epoch() -> None:
    eps, accuracy = charts(HISTORY)[3], charts(HISTORY)[5]
    assert eps.lines[0].points() == [(2, 0.5), (3, 0.5)]
    assert [line.points() for line in accuracy.lines] == [[(3, 25.0)], [(3, 50.0)]]


def test_a_page_with_a_split_shows_curves_galleries_and_clusters(
    images: TrainingImages, split: Path, tmp_path: Path
) -> None:
    page = write(tmp_path, images, np.arange(len(images)) // 8, split)
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == ["Course of the training", "Hardest queries", "Easiest queries", "Clusters of the last epoch"]
    assert len(pictures(page)) == 1 + 6 + 6 + 8  # curves, six people from either end, eight clusters
    assert page.count("%, 2 to find</figcaption>") == 12  # each in the other camera, twice
    assert "http" not in page  # it loads nothing: it can be mailed and kept


def test_a_page_without_labels_shows_clusters_of_crops(images: TrainingImages, tmp_path: Path) -> None:
    labels_N = np.full(len(images), OUTLIER)
    labels_N[:5] = 0
    page = write(tmp_path, images, labels_N)
    _, sheet = pictures(page)
    assert "cluster 0: 5 images from 2 cameras" in page
    assert sheet.shape[1] > 5 * 96  # five crops side by side


@pytest.mark.parametrize("labels", ["none", "outliers"])
def test_a_run_that_never_clustered_has_a_page_too(labels: str, images: TrainingImages, tmp_path: Path) -> None:
    labels_N = None if labels == "none" else np.full(len(images), OUTLIER)
    assert len(pictures(write(tmp_path, images, labels_N))) == 1


def test_the_figures_are_those_of_the_epoch_that_is_kept(images: TrainingImages, tmp_path: Path) -> None:
    history = [record(1, mAP=0.75, rank1=0.875), record(2, mAP=0.25, rank1=0.5)]
    recipe = load_recipe("quick")
    for kept, shown in ((None, {"mAP": "25.0%", "rank-1": "50.0%"}), (1, {"mAP": "75.0%", "kept epoch": "1"})):
        write_report(tmp_path, recipe, history, images, None, embed_histograms, None, kept_epoch=kept)
        figures = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", (tmp_path / "report.html").read_text()))
        assert shown.items() <= figures.items()
        assert ("kept epoch" in figures) == (kept == 1)


def test_a_page_of_a_student_says_who_taught_it(images: TrainingImages, tmp_path: Path) -> None:
    recipe = load_recipe("student", ["distil.encoder=run"])
    write_report(tmp_path, recipe, [record(1, phase="distil", eps=None)], images, None, embed_histograms, None)
    page = (tmp_path / "report.html").read_text()
    assert "taught by another encoder, without labels" in page
    assert "<dt>clusters</dt>" not in page


def test_where_no_page_can_be_written_one_line_says_so(images: TrainingImages, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(ReidgeError, match="cannot be written"):
        write(tmp_path, images, None)
