from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reidge.edge.crops import CropRecord, CropWriter
from reidge.edge.errors import InputError, ReidgeError
from reidge.train.augment import paint
from reidge.train.checkpoint import load_encoder, load_state, save_encoder
from reidge.train.cluster import ClusterConfig
from reidge.train.encoders import build_encoder
from reidge.train.extract import embed_crops
from reidge.train.loop import train
from reidge.train.pseudo_labels import clamp
from reidge.train.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from pathlib import Path

TINY = (
    "encoder.input_size=[64, 32]", "encoder.ghost_batch=8", "warmup.epochs=1", "warmup.iters=3", "loop.epochs=2",
    "loop.iters=3", "sampler.clusters=4", "sampler.images=4", "augment.pad=2", "loop.device=cpu",
)  # fmt: skip


def tiny(*overrides: str) -> Recipe:
    return load_recipe("quick", [*TINY, *overrides])


@pytest.fixture(scope="module")
def finished(crops: Path, split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a whole tiny run with a split. Read only."""
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    train(tiny(), crops, run_dir, split=split)
    return run_dir


def history(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_its_contract_says(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {"recipe.yaml", "last.pt", "encoder.safetensors", "history.jsonl", "report.html", "tensorboard"}
    assert load_recipe(str(finished / "recipe.yaml")) == tiny()
    assert load_state(finished / "last.pt")["epoch"] == 3
    encoder = load_encoder(finished)
    assert encoder.input_size == (64, 32)
    embeddings = embed_crops(encoder, np.full((2, 64, 32, 3), 99, dtype=np.uint8))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_history_has_a_line_for_each_epoch(finished: Path) -> None:
    lines = history(finished)
    assert [(line["epoch"], line["phase"]) for line in lines] == [(1, "warmup"), (2, "cluster"), (3, "cluster")]
    assert lines[0]["clusters"] == 16  # the tracklets
    assert lines[0]["eps"] is None
    assert [line["mAP"] is None for line in lines] == [True, True, False]


def test_a_run_learns(crops: Path, tmp_path: Path) -> None:
    recipe = tiny("warmup.epochs=3", "warmup.iters=20", "loop.epochs=1", "augment.jitter=0.1", "augment.erasing_p=0")
    summary = train(recipe, crops, tmp_path / "run")
    losses = [line["loss"] for line in history(tmp_path / "run")]
    assert losses[2] < 0.7 * losses[0]
    assert 2 <= summary.clusters <= 16


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


class Killed(BaseException):
    """As SIGKILL between two steps: nothing may catch it."""


def train_until(step: int, recipe: Recipe, crops: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and be killed when the views of a step, counted from 0, are painted."""
    calls = iter(range(100))

    def killing(*args, **kwargs):  # type: ignore[no-untyped-def]
        if next(calls) == step:
            raise Killed
        return paint(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("reidge.train.batches.paint", killing)
        with pytest.raises(Killed):
            train(recipe, crops, run_dir)
    torch.manual_seed(99)  # what a new process finds is not what the old one left
    np.random.default_rng(99)


def assert_same_weights(first: Path, second: Path) -> None:
    expected, found = (load_file(folder / "encoder.safetensors") for folder in (first, second))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("step", [2, 7])  # in the first and in the last epoch
def test_killed_and_resumed_equals_uninterrupted(
    step: int, finished: Path, crops: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    train_until(step, tiny(), crops, run_dir, monkeypatch)
    train(tiny(), crops, run_dir, resume=True, split=split)
    assert_same_weights(finished, run_dir)
    assert timeless(history(finished)) == timeless(history(run_dir))


SYSTEMS = {
    "instance memory": ("memory.level=instance",),
    "dccc": ("memory.rule=weighted", "contrast.soft_weight=1", "cluster.schedule.kind=exponential"),
    "robust": ("memory.rule=dispersion", "memory.initialiser=attention", "attention.steps=3"),
    "in parts": ("loop.accumulate=2", "contrast.soft_weight=0.5"),
    "chosen": ("loop.choose=tracklets",),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_resumes_exactly(
    system: str, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("loop.epochs=3", "loop.iters=2", *SYSTEMS[system])
    train(recipe, crops, tmp_path / "whole")
    views = 2 if recipe.contrast.soft_weight else 1
    train_until(
        3 + 2 * views + 1, recipe, crops, tmp_path / "cut", monkeypatch
    )  # in the second epoch after the warm-up
    train(recipe, crops, tmp_path / "cut", resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")
    assert timeless(history(tmp_path / "whole")) == timeless(history(tmp_path / "cut"))


def test_the_schedule_moves_eps(crops: Path, tmp_path: Path) -> None:
    train(tiny("cluster.schedule.kind=exponential", "loop.iters=1"), crops, tmp_path / "run")
    assert [line["eps"] for line in history(tmp_path / "run")] == [None, pytest.approx(0.594), pytest.approx(0.58806)]


def test_a_score_without_labels_chooses_the_encoder(
    crops: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("optim.schedule=constant", "loop.iters=2")
    # Of the clusterings that begin epochs 3, 4 and 5 and of the one after, the second scores best. A clustering belongs
    # to the encoder before it, so that is the encoder of epoch 3.
    found = iter([0.2, 0.8, 0.5, 0.3])
    monkeypatch.setattr("reidge.train.pseudo_labels.agreement", lambda *_: next(found, 0.0))
    summary = train(tiny("loop.choose=agreement", "loop.epochs=4", *common), crops, tmp_path / "run", split=split)
    assert summary.chosen_epoch == 3
    assert load_state(tmp_path / "run" / "last.pt")["epoch"] == 5
    assert summary.mAP is None  # of epoch 3, which was not evaluated; not of the last, which is not kept
    train(tiny(f"loop.epochs={summary.chosen_epoch - 1}", *common), crops, tmp_path / "shorter")
    assert_same_weights(tmp_path / "run", tmp_path / "shorter")


def test_a_student_learns_what_is_similar_from_a_trained_encoder(
    finished: Path, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = (
        f"distil.encoder={finished}",
        "encoder.stripes=1",
        "loop.iters=10",
        "augment.erasing_p=0",
        "loop.epochs=3",
    )
    summary = train(tiny(*taught), crops, tmp_path / "student")
    lines = history(tmp_path / "student")
    assert [line["phase"] for line in lines] == ["distil"] * 3
    assert lines[-1]["loss"] < lines[0]["loss"]
    student, teacher = load_encoder(tmp_path / "student"), load_encoder(finished)
    assert student.embedding_dim == teacher.embedding_dim // 2
    assert summary.clusters == 64  # every crop stands for itself

    moved = shutil.copytree(finished, tmp_path / "moved")
    recipe = tiny(f"distil.encoder={moved}", "encoder.stripes=1", "loop.epochs=3")
    train(recipe, crops, tmp_path / "whole")
    train_until(4, recipe, crops, tmp_path / "cut", monkeypatch)
    shutil.rmtree(moved)
    train(recipe, crops, tmp_path / "cut", resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


def test_a_student_stopped_in_its_first_epoch_begins_anew_without_the_one_it_learns_from(
    finished: Path, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = shutil.copytree(finished, tmp_path / "moved")
    recipe = tiny(f"distil.encoder={moved}", "loop.epochs=1")
    train_until(1, recipe, crops, tmp_path / "student", monkeypatch)
    shutil.rmtree(moved)
    assert train(recipe, crops, tmp_path / "student", resume=True).epochs == 1


def test_a_file_that_is_lost_does_not_keep_a_run_from_going_on(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(crops, tmp_path / "crops")
    first, second, *_ = sorted(folder.rglob("*.jpg"))
    first.write_bytes(b"torn")  # left out from the beginning
    train_until(4, tiny(), folder, tmp_path / "run", monkeypatch)
    second.write_bytes(b"torn")
    summary = train(tiny(), folder, tmp_path / "run", resume=True)
    assert (summary.epochs, summary.images) == (3, 63)
    assert summary.outliers >= 1  # the second is still counted, in no cluster


def test_choices_that_nothing_could_be_chosen_by_are_refused(crops: Path, finished: Path, tmp_path: Path) -> None:
    for override in ("cluster.method=labels", f"distil.encoder={finished}"):
        with pytest.raises(InputError, match=r"loop\.choose silhouette scores clusterings|has no labels"):
            train(tiny("loop.choose=silhouette", override), crops, tmp_path / "run")


def test_a_split_without_matches_is_refused_before_training(crops: Path, split: Path, tmp_path: Path) -> None:
    lonely = shutil.copytree(split, tmp_path / "lonely")
    for path in lonely.rglob("*_c2*"):
        path.unlink()
    with pytest.raises(InputError, match="identity in another camera"):
        train(tiny(), crops, tmp_path / "run", split=lonely)
    assert not (tmp_path / "run").exists()


def test_an_image_lost_from_the_split_costs_the_figures_not_the_run(
    crops: Path, split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = shutil.copytree(split, tmp_path / "torn")
    next((torn / "query").iterdir()).write_bytes(b"torn")
    recipe = tiny("loop.epochs=1", "loop.iters=1", "warmup.iters=1")
    assert train(recipe, crops, tmp_path / "run", split=torn).mAP is None
    said = capsys.readouterr().err
    assert "epoch 2 has no figures" in said
    assert "the report comes without ranked galleries" in said
    assert (tmp_path / "run" / "report.html").is_file()


def test_two_stages_train_on_labels_and_then_adapt_without(crops: Path, split: Path, tmp_path: Path) -> None:
    source = shutil.copytree(split, tmp_path / "source")
    shutil.copytree(source / "bounding_box_test", source / "bounding_box_train")
    first = train(tiny("cluster.method=labels", "loop.iters=4"), source, tmp_path / "first")
    assert (first.clusters, first.outliers, first.epochs) == (6, 0, 2)
    second = train(tiny(), crops, tmp_path / "second", weights=str(tmp_path / "first"))
    assert second.epochs == 2  # trained weights need no warm-up
    with pytest.raises(InputError, match="has no labels"):
        train(tiny("cluster.method=labels"), crops, tmp_path / "third")


def test_parts_that_would_change_the_statistics_are_refused(crops: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--set encoder\.ghost_batch=8"):
        train(tiny("encoder.ghost_batch=null", "loop.accumulate=2"), crops, tmp_path / "run")


def test_resuming_does_not_ask_for_the_weights_it_began_with(crops: Path, tmp_path: Path) -> None:
    save_encoder(build_encoder("small", input_size=(64, 32)), tmp_path / "first.safetensors")
    weights = str(tmp_path / "first.safetensors")
    train(tiny("loop.epochs=1"), crops, tmp_path / "run", weights=weights)
    (tmp_path / "first.safetensors").unlink()
    assert train(tiny("loop.epochs=1"), crops, tmp_path / "run", weights=weights, resume=True).epochs == 1


def test_resuming_a_finished_run_changes_nothing(finished: Path, crops: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished, tmp_path / "run")
    train(tiny(), crops, run_dir, resume=True)
    assert (run_dir / "last.pt").read_bytes() == (finished / "last.pt").read_bytes()


def test_a_folder_that_holds_a_run_is_not_overwritten(finished: Path, crops: Path) -> None:
    with pytest.raises(InputError, match="--resume"):
        train(tiny(), crops, finished)


def test_resume_needs_a_run(crops: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        train(tiny(), crops, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_resume_refuses_another_recipe_and_other_crops(finished: Path, crops: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="optim differs"):
        train(tiny("optim.lr=1"), crops, finished, resume=True)
    fewer = shutil.copytree(crops, tmp_path / "crops")
    lines = (fewer / "crops.csv").read_text().splitlines()
    (fewer / "crops.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(InputError, match="other crops"):
        train(tiny(), fewer, finished, resume=True)


def test_a_damaged_state_is_named(finished: Path, crops: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished, tmp_path / "run")
    (run_dir / "last.pt").write_bytes((finished / "last.pt").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"last\.pt is damaged"):
        train(tiny(), crops, run_dir, resume=True)


def test_without_clusters_the_tracklets_stand_in_and_then_the_run_stops(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny("cluster.min_samples=40", "loop.epochs=5", "loop.iters=1")
    with pytest.raises(ReidgeError, match=r"0 clusters among 64 crops \(64 outliers\), 3 times in a row.*cluster\.eps"):
        train(recipe, crops, tmp_path / "run")
    assert "goes on with the tracklets" in capsys.readouterr().err
    assert len(history(tmp_path / "run")) == 3  # the warm-up and two epochs that went on


def test_a_loss_that_is_no_number_stops_the_run(crops: Path, tmp_path: Path) -> None:
    with pytest.raises(ReidgeError, match=r"loss became nan in epoch 1.*lower learning rate"):
        train(tiny("warmup.lr=1e30"), crops, tmp_path / "run")


def test_weights_that_the_last_step_of_an_epoch_ruined_stop_the_run(crops: Path, tmp_path: Path) -> None:
    with pytest.raises(ReidgeError, match=r"embeddings are not finite after epoch 1: .*warmup\.lr"):
        train(tiny("warmup.iters=1", "warmup.lr=1e30"), crops, tmp_path / "run")


def test_a_damaged_recipe_is_named(finished: Path, crops: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished, tmp_path / "run")
    (run_dir / "recipe.yaml").write_text("loop: {epochs")
    with pytest.raises(InputError, match=r"recipe\.yaml cannot be read"):
        train(tiny(), crops, run_dir, resume=True)


def test_wrong_input_writes_nothing(crops: Path, tmp_path: Path) -> None:
    for recipe, folder, weights in (
        (tiny(), tmp_path / "missing", None),
        (tiny(), crops, str(tmp_path / "missing.pth")),
        (tiny(), crops, "imagenet"),
        (tiny("loop.device=abacus"), crops, None),
    ):
        with pytest.raises(InputError):
            train(recipe, folder, tmp_path / "run", weights=weights)
        assert list(tmp_path.iterdir()) == []


def test_few_crops_clamp_the_neighbourhood() -> None:
    config = ClusterConfig(k1=30, k2=6)
    assert clamp(config, 2000) == config
    assert (clamp(config, 100).k1, clamp(config, 100).k2) == (10, 2)
    assert (clamp(config, 10).k1, clamp(config, 10).k2) == (4, 1)


def test_a_folder_with_too_few_crops_is_refused(tmp_path: Path) -> None:
    with CropWriter(tmp_path / "crops") as writer:
        record = CropRecord(
            path="a.jpg", camid="a", tracklet="a", captured_at=0, x1=0, y1=0, x2=1, y2=1, score=1, sharpness=1
        )
        writer.add(np.zeros((8, 4, 3), dtype=np.uint8), record)
    with pytest.raises(InputError, match="too few"):
        train(tiny(), tmp_path / "crops", tmp_path / "run")
