"""The batches of an epoch: drawn, read, seen at random, and ready a little ahead of the step that takes them."""

# B = batch, b = this process's part of it, H, W = input height and width, N = images

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from reidge.edge.errors import ReidgeError
from reidge.train.augment import draw_views, paint
from reidge.train.cluster import OUTLIER
from reidge.train.sampler import batches, shuffled

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.run import Run

BATCHES_AHEAD = 2
"""Made ready by another thread while a GPU works; a CPU has nothing to spare for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Images that go through the network together."""

    views_b3HW: Tensor
    teacher_views_b3HW: Tensor | None
    """Other views of the same images."""
    labels_b: Tensor
    indices_b: Tensor
    """Which images they are."""

    def rows(self, rows: slice) -> Part:
        """Return some of them."""
        return Part(
            views_b3HW=self.views_b3HW[rows],
            teacher_views_b3HW=None if self.teacher_views_b3HW is None else self.teacher_views_b3HW[rows],
            labels_b=self.labels_b[rows],
            indices_b=self.indices_b[rows],
        )

    def outlive(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory until a stream other than the one that filled it is through with it."""
        for tensor in (self.views_b3HW, self.teacher_views_b3HW, self.labels_b, self.indices_b):
            if tensor is not None:
                tensor.record_stream(stream)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch as all processes know it, and the part of it that this one computes."""

    labels_B: Tensor
    """On the CPU: what is decided by labels needs no word from the device."""
    indices_B: Tensor
    own: Part
    unit: int
    """Rows that stay together when processes share the batch."""

    def __len__(self) -> int:
        return len(self.labels_B)

    def parts(self, count: int, group: int) -> list[Part]:
        """Split this process's part for gradient accumulation, groups of images kept whole."""
        rows = len(self.own.labels_b)
        count = max(1, min(count, rows // group))
        stops = [rows // group * number // count * group for number in range(count)] + [rows]
        return [self.own.rows(slice(*edges)) for edges in pairwise(stops)]


def read_batches(
    run: Run, labels_N: NDArray[np.int64], rng: np.random.Generator, *, steps: int, epoch: int
) -> Generator[Batch, None, None]:
    """Yield the batches of an epoch.

    Args:
        run: What the run works with.
        labels_N: Pseudo labels or `OUTLIER`.
        rng: Drawn from in a fixed order, never beyond the last batch.
        steps: How many.
        epoch: Counted from 0.

    Raises:
        ReidgeError: A batch cannot be shared by all processes.
    """
    made = _make_batches(run, labels_N, rng, steps=steps, epoch=epoch)
    if run.device.type != "cuda":
        return made
    return ahead(made, BATCHES_AHEAD, torch.cuda.Stream(run.device))  # type: ignore[no-untyped-call]


def _make_batches(
    run: Run, labels_N: NDArray[np.int64], rng: np.random.Generator, *, steps: int, epoch: int
) -> Generator[Batch, None, None]:
    sampler, phase = run.recipe.sampler, run.phase(epoch)
    if phase == "distil":
        drawn = shuffled(np.flatnonzero(labels_N != OUTLIER), sampler.clusters * sampler.images, rng)
    else:
        drawn = batches(labels_N, run.images.camids, sampler, rng)
    views = 2 if run.teacher is not None and phase == "cluster" else 1
    for indices_B in islice(drawn, steps):
        yield _make_batch(run, indices_B, labels_N, views, rng)


def _make_batch(
    run: Run, indices_B: NDArray[np.int64], labels_N: NDArray[np.int64], views: int, rng: np.random.Generator
) -> Batch:
    drawn = [draw_views(len(indices_B), run.recipe.augment, run.images.size, rng) for _ in range(views)]
    unit = run.group if len(indices_B) // run.group >= run.world.size else run.recipe.sampler.images
    rows = run.world.part(len(indices_B), unit)
    indices_b = indices_B[rows]
    if not len(indices_b):
        raise ReidgeError(
            f"{run.world.size} processes cannot share a batch of {len(indices_B)} images: too few clusters were found. "
            "Start fewer processes, or raise --set cluster.eps."
        )
    crops_bHW3 = torch.from_numpy(read_crops(run, indices_b, labels_N)).to(run.device)
    painted = [paint(crops_bHW3, view.part(rows), run.encoder) for view in drawn]
    labels_B = torch.from_numpy(labels_N[indices_B])
    return Batch(
        labels_B=labels_B,
        indices_B=torch.from_numpy(indices_B),
        unit=unit,
        own=Part(
            views_b3HW=painted[0],
            teacher_views_b3HW=painted[1] if views == 2 else None,
            labels_b=labels_B[rows].to(run.device),
            indices_b=torch.from_numpy(indices_b).to(run.device),
        ),
    )


def read_crops(run: Run, indices_b: NDArray[np.int64], labels_N: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Read crops; for one whose file has become unreadable another of its cluster in the batch stands in."""
    crops_bHW3 = run.images.take(indices_b)
    bad_b = np.isin(indices_b, sorted(run.images.unreadable))
    for row in np.flatnonzero(bad_b):
        others = np.flatnonzero((labels_N[indices_b] == labels_N[indices_b[row]]) & ~bad_b)
        if len(others):
            crops_bHW3[row] = crops_bHW3[others[0]]
    return crops_bHW3


def ahead(batches: Iterator[Batch], count: int, stream: torch.cuda.Stream | None) -> Generator[Batch, None, None]:
    """Let another thread make the next batches while the last one is used; closing waits for it to end.

    Args:
        batches: Made in their order, `count` at most before they are asked for.
        count: How many.
        stream: Of a GPU, for the making: on the stream of the steps it would wait for them. None without a GPU.
    """

    def make() -> Batch | None:
        with torch.cuda.stream(stream):  # None changes nothing
            batch = next(batches, None)
        if stream is not None:
            stream.synchronize()
        return batch

    with ThreadPoolExecutor(1) as maker:
        waiting = deque(maker.submit(make) for _ in range(count))
        while (batch := waiting.popleft().result()) is not None:
            if stream is not None:
                batch.own.outlive(torch.cuda.current_stream())
            waiting.append(maker.submit(make))
            yield batch
