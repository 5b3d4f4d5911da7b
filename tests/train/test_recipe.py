from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reidge.edge.errors import InputError
from reidge.train.recipe import OptimConfig, Recipe, dump_recipe, load_recipe, shipped_recipes

if TYPE_CHECKING:
    from pathlib import Path


def test_every_shipped_recipe_loads() -> None:
    assert {load_recipe(name).name for name in shipped_recipes()} == set(shipped_recipes())


def test_a_recipe_ships_for_every_published_setting() -> None:
    data_sets = ("market1501", "dukemtmc", "msmt17", "personx", "veri776")
    expected = {f"cluster-contrast/{name}{variant}" for name in data_sets for variant in ("", "-infomap")}
    expected |= {f"cluster-contrast/{name}-ibn-hardest" for name in data_sets[:2]}
    expected |= {f"dccc/{name}" for name in data_sets[:3]}
    assert set(shipped_recipes()) == expected | {"robust/market1501", "own-cameras", "quick", "source", "student"}


@pytest.mark.parametrize(
    ("name", "eps", "iters"),
    [
        ("market1501", 0.6, 200),
        ("dukemtmc", 0.6, 200),
        ("msmt17", 0.6, 400),
        ("personx", 0.7, 200),
        ("veri776", 0.6, 400),
    ],
)
def test_data_sets_differ_as_published(name: str, eps: float, iters: int) -> None:
    recipe = load_recipe(f"cluster-contrast/{name}")
    assert (recipe.cluster.eps, recipe.loop.iters) == (eps, iters)
    assert recipe.encoder.input_size == ((224, 224) if name == "veri776" else (256, 128))
    infomap = load_recipe(f"cluster-contrast/{name}-infomap")
    assert (infomap.cluster.method, infomap.cluster.neighbours, infomap.cluster.min_similarity) == ("infomap", 15, 0.5)
    assert infomap.model_copy(update={"name": recipe.name, "cluster": recipe.cluster}) == recipe


@pytest.mark.parametrize(
    ("name", "eps", "tau", "smoothing", "epochs"),
    [("market1501", 0.7, 0.03, 0.3, 70), ("dukemtmc", 0.7, 0.07, 0.1, 70), ("msmt17", 0.8, 0.6, 0.1, 80)],
)
def test_dccc_holds_the_published_numbers(name: str, eps: float, tau: float, smoothing: float, epochs: int) -> None:
    recipe = load_recipe(f"dccc/{name}")
    assert (recipe.cluster.eps, recipe.cluster.schedule.kind) == (eps, "exponential")
    assert (recipe.cluster.schedule.factor, recipe.cluster.schedule.floor) == (0.99, 0.399)
    assert (recipe.memory.rule, recipe.memory.tau) == ("weighted", tau)
    assert (recipe.contrast.soft_weight, recipe.contrast.smoothing) == (1, smoothing)
    assert (recipe.teacher.momentum, recipe.encoder.pooling) == (0.999, "avg")
    assert (recipe.loop.epochs, recipe.loop.iters) == (epochs, 200)
    assert [recipe.optim.lr_at(epoch, epochs) / 3.5e-4 for epoch in (0, 5, 10, epochs - 1)] == pytest.approx(
        [0.1, 0.55, 1, 1]
    )


def test_a_file_may_hold_what_differs_from_a_shipped_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{extends: dccc/msmt17, name: mine, cluster: {eps: 0.5}}")
    mine, extended = load_recipe(str(tmp_path / "mine.yaml")), load_recipe("dccc/msmt17")
    assert mine.cluster == extended.cluster.model_copy(update={"eps": 0.5})
    assert mine.memory == extended.memory
    (tmp_path / "lost.yaml").write_text("extends: dccc/mars")
    with pytest.raises(InputError, match=r"extends 'dccc/mars', which does not exist\. Name one of: .*dccc/msmt17"):
        load_recipe(str(tmp_path / "lost.yaml"))


def test_the_published_recipe_holds_the_published_numbers() -> None:
    recipe = load_recipe("cluster-contrast/market1501")
    assert (recipe.cluster.k1, recipe.cluster.k2, recipe.cluster.eps, recipe.cluster.min_samples) == (30, 6, 0.6, 4)
    assert (recipe.memory.momentum, recipe.memory.temperature, recipe.memory.rule) == (0.1, 0.05, "sequential")
    assert (recipe.sampler.clusters, recipe.sampler.images, recipe.encoder.ghost_batch) == (16, 16, 64)
    assert (recipe.loop.epochs, recipe.loop.iters, recipe.warmup_epochs) == (50, 200, 0)
    assert recipe.optim == OptimConfig(lr=3.5e-4, weight_decay=5e-4, schedule="step", step_epochs=20, step_factor=0.1)


def test_the_learning_rate_steps_and_bends() -> None:
    step, cosine = OptimConfig(lr=1.0), OptimConfig(lr=1.0, schedule="cosine")
    assert [step.lr_at(epoch, 50) for epoch in (0, 19, 20, 40)] == pytest.approx([1, 1, 0.1, 0.01])
    assert [cosine.lr_at(epoch, 10) for epoch in (0, 5)] == pytest.approx([1, 0.5])
    rising = OptimConfig(lr=1.0, schedule="constant", warmup_epochs=10)
    assert [rising.lr_at(epoch, 50) for epoch in (0, 5, 10, 49)] == pytest.approx([0.1, 0.55, 1, 1])


def test_single_values_can_be_set() -> None:
    recipe = load_recipe("quick", ["cluster.eps=0.5", "encoder.input_size=[64, 32]", "optim.lr=1e-4"])
    assert (recipe.cluster.eps, recipe.encoder.input_size, recipe.optim.lr) == (0.5, (64, 32), 1e-4)


def test_pretrained_weights_need_no_warm_up() -> None:
    assert load_recipe("quick").warmup_epochs > 0
    assert load_recipe("quick", ["encoder.weights=some.pth"]).warmup_epochs == 0


def test_a_written_recipe_reads_back_the_same(tmp_path: Path) -> None:
    recipe = load_recipe("quick", ["loop.seed=7", "encoder.ghost_batch=null"])
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe
    (tmp_path / "empty.yaml").write_text("{}")
    assert load_recipe(str(tmp_path / "empty.yaml")) == Recipe()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cluster.epz=0.5", r"unknown key 'cluster\.epz'\. Did you mean 'eps'\?"),
        ("cluster.eps=2", r"cluster\.eps: .* less than 1 \(got 2\)"),
        ("cluster.eps", "has no value"),
        ("name.eps=1", "no setting of this name"),
        ("loop.seed=[", "cannot be read as YAML"),
        pytest.param("loop.seed=" + "[" * 5000, "cannot be read as YAML", id="deep"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("quick", [override])


def test_a_missing_or_broken_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no recipe 'slow'.*quick"):
        load_recipe("slow")
    with pytest.raises(InputError, match=r"gone\.yaml cannot be read"):
        load_recipe(str(tmp_path / "gone.yaml"))
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(InputError, match="not a mapping"):
        load_recipe(str(tmp_path / "list.yaml"))
