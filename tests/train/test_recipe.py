from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reidge.edge.errors import InputError
from reidge.train.recipe import OptimConfig, Recipe, dump_recipe, load_recipe, shipped_recipes

if TYPE_CHECKING:
    from pathlib import Path


def test_every_shipped_recipe_loads() -> None:
    assert shipped_recipes() == ["cluster-contrast/market1501", "quick"]
    assert {load_recipe(name).name for name in shipped_recipes()} == set(shipped_recipes())


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
