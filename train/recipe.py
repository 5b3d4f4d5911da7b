"""A recipe: every number that shapes a training run, in one frozen value."""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, Field

from reidge.edge.crops import ResizeMethod
from reidge.edge.errors import InputError
from reidge.edge.settings import apply_overrides, validate
from reidge.train.attention import AttentionConfig
from reidge.train.augment import AugmentConfig
from reidge.train.cluster import ClusterConfig
from reidge.train.contrast import ContrastConfig
from reidge.train.distil import DistilConfig
from reidge.train.images import DataConfig
from reidge.train.memory import MemoryConfig
from reidge.train.sampler import SamplerConfig
from reidge.train.teacher import TeacherConfig

if TYPE_CHECKING:
    from collections.abc import Sequence


class EncoderConfig(BaseModel, frozen=True, extra="forbid"):
    """Which network is trained; None takes the architecture's default."""

    architecture: str = "resnet50"
    weights: str | None = None
    """`imagenet`, a file of weights, or None for random ones."""
    input_size: tuple[int, int] | None = None
    """Height and width in pixels."""
    resize: ResizeMethod | None = None
    pooling: str | None = None
    """`gem`, `avg`, or `token` for a vision transformer."""
    stripes: int | None = None
    """Horizontal stripes pooled apart."""
    ghost_batch: int | None = Field(64, ge=2)
    """Images that share batch-norm statistics; None takes the whole batch."""


class WarmupConfig(BaseModel, frozen=True, extra="forbid"):
    """Epochs before the first clustering, with the tracklet as pseudo label; skipped with pretrained weights."""

    epochs: int = Field(0, ge=0)
    iters: int = Field(50, ge=1)
    """Steps in an epoch."""
    within_camera: bool = True
    """Whether an image is contrasted only with tracklets of its own camera: those are mostly other people, and
    their common background tells nothing. Tracklets of other cameras may be the same person."""
    lr: float = Field(3.5e-4, gt=0)
    """Learning rate of Adam, constant."""


class OptimConfig(BaseModel, frozen=True, extra="forbid"):
    """Adam and its schedule over the epochs after the warm-up."""

    lr: float = Field(3.5e-4, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["step", "cosine", "constant"] = "step"
    step_epochs: int = Field(20, ge=1)
    """Epochs between two steps of schedule `step`."""
    step_factor: float = Field(0.1, gt=0, le=1)
    """What a step multiplies the learning rate with."""
    warmup_epochs: int = Field(0, ge=0)
    """Epochs over which the learning rate rises linearly to its schedule; unlike the section `warmup`, these are
    epochs of the training itself."""
    warmup_factor: float = Field(0.1, gt=0, le=1)
    """Share of the learning rate that the first of them takes."""

    def lr_at(self, epoch: int, epochs: int) -> float:
        """Learning rate of one of `epochs` epochs, counted from 0."""
        lr = self.lr
        if epoch < self.warmup_epochs:
            lr *= self.warmup_factor + (1 - self.warmup_factor) * epoch / self.warmup_epochs
        if self.schedule == "step":
            lr *= float(self.step_factor ** (epoch // self.step_epochs))
        if self.schedule == "cosine":
            lr *= 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        return lr


class LoopConfig(BaseModel, frozen=True, extra="forbid"):
    """How long, where, how, and from which seed."""

    epochs: int = Field(50, ge=1)
    """Epochs of cluster contrast, after the warm-up."""
    iters: int = Field(200, ge=1)
    """Steps in an epoch."""
    evaluate_every: int = Field(5, ge=1)
    """Epochs between two evaluations, where a labelled split is given."""
    choose: Literal["last", "agreement", "silhouette", "tracklets"] = "last"
    """Which epoch's encoder is kept: the last, or the one whose clustering has the largest such score without labels.
    The labelled split never chooses."""
    accumulate: int = Field(1, ge=1)
    """Parts a batch goes through the network in, for a GPU it does not fit into. Nothing else changes: groups of ghost
    batch norm stay whole, and the memory moves after the last part."""
    device: str = "auto"
    """`auto` takes a GPU where there is one; else `cpu`, `cuda`, `cuda:1`, ..."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Of the network's arithmetic. `auto` takes bfloat16 on a GPU only: a CPU with AMX is twice as fast with it too,
    but torch 2.15 then computes NaN for feature maps of a few pixels, and other CPUs are far slower."""
    channels_last: bool = True
    """Whether colours stand side by side in memory: it halves the time of a step on a CPU and lets a GPU use its
    tensor cores."""
    compile: bool = False
    """Whether the network goes through torch.compile: minutes of compiling for faster steps."""
    seed: int = Field(0, ge=0, lt=2**63)


class Recipe(BaseModel, frozen=True, extra="forbid"):
    """Everything that shapes a run; the defaults are the published ones for Market-1501 (Dai et al., 2021)."""

    name: str = "cluster-contrast/market1501"
    data: DataConfig = DataConfig()
    encoder: EncoderConfig = EncoderConfig()
    augment: AugmentConfig = AugmentConfig()
    warmup: WarmupConfig = WarmupConfig()
    cluster: ClusterConfig = ClusterConfig()
    memory: MemoryConfig = MemoryConfig()
    contrast: ContrastConfig = ContrastConfig()
    teacher: TeacherConfig = TeacherConfig()
    attention: AttentionConfig = AttentionConfig()
    distil: DistilConfig = DistilConfig()
    sampler: SamplerConfig = SamplerConfig()
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()

    @property
    def warmup_epochs(self) -> int:
        """Epochs of warm-up that are run: none with pretrained weights, with labels or with a trained encoder."""
        given = self.encoder.weights is not None or self.distil.encoder is not None or self.cluster.method == "labels"
        return 0 if given else self.warmup.epochs

    @property
    def total_epochs(self) -> int:
        """Epochs of both phases."""
        return self.warmup_epochs + self.loop.epochs


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    root = Path(str(files("reidge.train"))) / "recipes"
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name or any YAML file, and change single values.

    A file may say `extends: NAME` and hold only what differs from that shipped recipe.

    Args:
        name_or_path: E.g. `quick` or `my/recipe.yaml`.
        overrides: E.g. `cluster.eps=0.5`; values are YAML.

    Raises:
        InputError: The recipe does not exist, is no YAML, or holds an unknown key or a wrong value.
    """
    path, values = _read(name_or_path)
    return validate(Recipe, apply_overrides(values, overrides), where=f"recipe {path}")


def _read(name_or_path: str) -> tuple[Path, dict[str, Any]]:
    """Read the values of a recipe, laid over those of the one it extends."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = Path(str(files("reidge.train"))) / "recipes" / f"{name_or_path}.yaml"
        if not path.is_file():
            raise InputError(
                f"there is no recipe {name_or_path!r}. Give a .yaml file or one of: {', '.join(shipped_recipes())}."
            )
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"recipe {path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise InputError(f"recipe {path} is not a mapping of sections. Compare with a shipped one.")
    extended = values.pop("extends", None)
    if extended is None:
        return path, values
    if extended not in shipped_recipes():
        raise InputError(
            f"recipe {path} extends {extended!r}, which does not exist. Name one of: {', '.join(shipped_recipes())}."
        )
    return path, _laid_over(_read(extended)[1], values)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Let the values above win, section by section."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _laid_over(below[key], value) if both else value
    return merged


def dump_recipe(recipe: Recipe) -> str:
    """Write every value, defaults included, as YAML that `load_recipe` reads back to the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
