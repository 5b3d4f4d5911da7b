"""What a training run works with, opened from its recipe."""

# N = crops, B = batch, H, W = input height and width, D = embedding, T = embedding of a trained encoder

from __future__ import annotations

import math
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.parallel import DistributedDataParallel

from reidge.edge.errors import InputError
from reidge.edge.progress import Progress
from reidge.train.attention import ClusterAttention
from reidge.train.checkpoint import load_encoder
from reidge.train.datasets import open_benchmark
from reidge.train.encoders import Encoder, build_encoder
from reidge.train.encoders.layers import frozen_statistics, use_ghost_batch_norm
from reidge.train.extract import embed_crops, extract
from reidge.train.images import DataConfig, TrainingImages, read_training_images
from reidge.train.pretrained import load_pretrained
from reidge.train.run_folder import TEACHER_NAME
from reidge.train.teacher import Teacher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.datasets import Benchmark
    from reidge.train.distributed import World
    from reidge.train.recipe import EncoderConfig, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What stays the same from epoch to epoch, or is changed in place by every step."""

    recipe: Recipe
    run_dir: Path
    world: World
    images: TrainingImages
    split: Benchmark | None
    encoder: Encoder
    network: Callable[[Tensor], Tensor]
    """The encoder as the steps call it: compiled and distributed where the recipe and the world ask for it."""
    parallel: DistributedDataParallel | None
    """What sends gradients to the other processes; None where there are none."""
    teacher: Teacher | None
    """None where no soft target is asked for."""
    attention: ClusterAttention | None
    """None where no part of the recipe needs it."""
    guides_NT: Tensor | None
    """Embeddings of all crops by a trained encoder; None unless a student learns from it."""
    optimizer: torch.optim.Optimizer
    device: torch.device
    bfloat16: bool

    @property
    def features_in_memory(self) -> bool:
        """Whether the features of all crops take no more than half of what the step between two epochs may take."""
        return _features_gib(len(self.images), self.encoder.embedding_dim) <= self.recipe.cluster.memory_gib / 2

    @property
    def group(self) -> int:
        """Images of a batch that must stay together: those that share batch-norm statistics, or those of a cluster."""
        return self.recipe.encoder.ghost_batch or self.recipe.sampler.images

    def embed(self, crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed crops in eval mode."""
        with self.autocast():
            return embed_crops(self.encoder, crops_NHW3)

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in bfloat16 where the recipe says so and the machine is good at it."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()

    @contextmanager
    def accumulating(self, *, first: bool, last: bool) -> Iterator[None]:
        """Add a part's gradients to those before: only the first moves batch-norm statistics, the last is sent."""
        with ExitStack() as stack:
            if not first:
                stack.enter_context(frozen_statistics(self.encoder))
                if self.teacher is not None:
                    stack.enter_context(frozen_statistics(self.teacher.encoder))
            if not last and self.parallel is not None:
                stack.enter_context(self.parallel.no_sync())
            yield

    def phase(self, epoch: int) -> str:
        """Name what an epoch, counted from 0, does: `distil`, `warmup` or `cluster`."""
        if self.guides_NT is not None:
            return "distil"
        return "warmup" if epoch < self.recipe.warmup_epochs else "cluster"

    def progress(self, epoch: int, what: str, *, total: int, unit: str) -> Progress:
        """Count the work of an epoch, counted from 0; one process alone shows it."""
        phase = {"warmup": "warm-up", "cluster": "train", "distil": "distil"}[self.phase(epoch)]
        label = " ".join([phase, f"{epoch + 1}/{self.recipe.total_epochs}", *([what] if what else [])])
        return Progress(label, total=total, unit=unit, quiet=not self.world.leads)

    def warn(self, message: str) -> None:
        """Say something on stderr, once."""
        if self.world.leads:
            print(f"warning: {message}.", file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        """Say on stderr how something went."""
        if self.world.leads:
            print(f"{message}.", file=sys.stderr, flush=True)


def open_run(
    recipe: Recipe,
    crops: Path,
    run_dir: Path,
    split: Path | None,
    *,
    world: World,
    device: str,
    left_out: frozenset[str] | None = None,
) -> Run:
    """Build network and optimiser and read the crops; nothing is written.

    Args:
        recipe: What to do.
        crops: Crop folder, or a benchmark folder whose labels are not read.
        run_dir: Where the run will leave its files.
        split: Labelled query/gallery folder, for reported figures.
        world: The processes of the run.
        device: Of this process.
        left_out: On resuming, the files that the run began without; its weights are then not the recipe's.

    Raises:
        InputError: Something given cannot be used.
        ReidgeError: The recipe's weights cannot be downloaded.
    """
    torch.manual_seed(recipe.loop.seed)
    own_device = _device(device)
    _check_parts(recipe, world)
    labelled = _labelled(split, crops, recipe.data) if split is not None and world.leads else None
    encoder = _encoder(recipe.encoder, pretrained=left_out is None)
    if recipe.loop.channels_last:
        encoder = encoder.to(memory_format=torch.channels_last)
    encoder = encoder.to(own_device)
    quiet = not world.leads
    images = read_training_images(
        crops, recipe.data, size=encoder.input_size, resize=encoder.resize, left_out=left_out, quiet=quiet
    )
    _check_images(recipe, crops, images)
    if recipe.memory.level == "instance" and recipe.distil.encoder is None:
        _check_memory("memory.level instance", len(images), 2 * encoder.embedding_dim, recipe)
    if world.size > 1 and recipe.encoder.ghost_batch is None and world.leads:
        print(
            f"warning: batch norm sees the share of each of {world.size} processes instead of the batch. For the same "
            "statistics on any number of them, set encoder.ghost_batch.",
            file=sys.stderr,
            flush=True,
        )
    attention = ClusterAttention(encoder.embedding_dim, recipe.attention) if recipe.memory.needs_attention else None
    parallel = _parallel(encoder, world, own_device)
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    return Run(
        recipe=recipe,
        run_dir=run_dir,
        world=world,
        images=images,
        split=labelled,
        encoder=encoder,
        network=torch.compile(parallel or encoder) if recipe.loop.compile else parallel or encoder,
        parallel=parallel,
        teacher=Teacher(encoder, recipe.teacher) if recipe.contrast.soft_weight > 0 else None,
        attention=None if attention is None else attention.to(own_device),
        guides_NT=_guides(recipe, run_dir, images, encoder, own_device),
        optimizer=torch.optim.Adam(parameters, lr=recipe.optim.lr, weight_decay=recipe.optim.weight_decay),
        device=own_device,
        bfloat16=_bfloat16(recipe.loop.precision, own_device),
    )


def _labelled(split: Path, crops: Path, config: DataConfig) -> Benchmark:
    """Open the split; where it is the folder that is trained on, it is read as that is."""
    if split.resolve() != crops.resolve():
        labelled = open_benchmark(split)
    else:
        labelled = open_benchmark(split, layout=config.layout, pattern=config.pattern, csv=config.csv)
    seen = set(zip(labelled.gallery.pids.tolist(), labelled.gallery.camids.tolist(), strict=True))
    cameras = Counter(pid for pid, _ in seen)
    queries = set(zip(labelled.query.pids.tolist(), labelled.query.camids.tolist(), strict=True))
    if not any(cameras[pid] > ((pid, camid) in seen) for pid, camid in queries):
        raise InputError(
            f"no query of {split} has its identity in another camera of the gallery, so nothing can be ranked. Give a "
            "split whose identities span at least two cameras, or leave out --split."
        )
    return labelled


def _check_parts(recipe: Recipe, world: World) -> None:
    ghost, batch = recipe.encoder.ghost_batch, recipe.sampler.clusters * recipe.sampler.images
    if recipe.loop.accumulate > 1 and ghost is None:
        raise InputError(
            "loop.accumulate would change the batch-norm statistics where they span the batch. Add "
            f"--set encoder.ghost_batch={max(2, batch // recipe.loop.accumulate)}, or leave accumulate at 1."
        )
    shares = world.size * recipe.loop.accumulate
    if shares > 1 and shares * (ghost or recipe.sampler.images) > batch:
        raise InputError(
            f"a batch of {batch} images has too few groups of {ghost or recipe.sampler.images} for {world.size} "
            f"processes with {recipe.loop.accumulate} parts each. Lower loop.accumulate or encoder.ghost_batch, or "
            "start fewer processes."
        )


def _check_images(recipe: Recipe, crops: Path, images: TrainingImages) -> None:
    if recipe.cluster.method == "labels" and images.pids is None:
        raise InputError(
            f"{crops} has no labels for cluster.method labels. Give a labelled benchmark folder, or another method."
        )
    choose = recipe.loop.choose
    if choose != "last" and (recipe.cluster.method == "labels" or recipe.distil.encoder is not None):
        raise InputError(f"loop.choose {choose} scores clusterings, and this recipe has none. Set it to last.")
    if choose == "tracklets" and images.tracklets is None:
        raise InputError(f"{crops} has no tracklets for loop.choose. Set it to last, agreement or silhouette.")
    if recipe.warmup_epochs and images.tracklets is None:
        raise InputError(f"{crops} has no tracklets to warm up with. Add --set warmup.epochs=0 and --weights.")
    if len(images) < recipe.cluster.min_samples:
        raise InputError(f"{crops} holds {len(images)} crops, too few to cluster. Harvest more footage.")


def _features_gib(images: int, width: int) -> float:
    """Memory of so many float32 features in GiB."""
    return 4 * images * width / 2**30


def _check_memory(what: str, images: int, width: int, recipe: Recipe) -> None:
    """Refuse what has to hold vectors of every image in memory, of this width together, where these are too many."""
    needed, allowed = _features_gib(images, width), recipe.cluster.memory_gib
    if needed > allowed:
        raise InputError(
            f"{what} holds a vector of each of the {images} crops, {needed:.1f} GiB beside their features, more than "
            f"cluster.memory_gib {allowed:g}. Allow {math.ceil(needed)}, or give fewer crops."
        )


def _encoder(config: EncoderConfig, *, pretrained: bool) -> Encoder:
    encoder = build_encoder(
        config.architecture,
        input_size=config.input_size,
        resize=config.resize,
        pooling=config.pooling,
        stripes=config.stripes,
    )
    if config.weights is not None and pretrained:
        load_pretrained(encoder, config.weights)
    if config.ghost_batch is not None:
        use_ghost_batch_norm(encoder, config.ghost_batch)
    return encoder


def _parallel(encoder: Encoder, world: World, device: torch.device) -> DistributedDataParallel | None:
    if world.size == 1:
        return None
    return DistributedDataParallel(encoder, device_ids=[device] if device.type == "cuda" else None)


def _guides(
    recipe: Recipe, run_dir: Path, images: TrainingImages, student: Encoder, device: torch.device
) -> Tensor | None:
    """Embed every crop with the encoder a student learns from, at that encoder's own input size."""
    if recipe.distil.encoder is None:
        return None
    kept = run_dir / TEACHER_NAME
    trained = load_encoder(kept if kept.is_file() else recipe.distil.encoder).to(device)
    width = trained.embedding_dim + 2 * student.embedding_dim
    _check_memory("learning from a trained encoder", len(images), width, recipe)
    return torch.from_numpy(extract(trained, images.paths)).to(device)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here. Set loop.device to auto, cpu or cuda.") from error
    return device


def _bfloat16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    # Older GPUs know it too, but only emulate it.
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
