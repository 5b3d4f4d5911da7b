"""One run by several processes, each with its own device: who does what, and how the parts come together.

Every process draws the same batches from the same random numbers and takes its own run of clusters of each. Gradients
are averaged by DistributedDataParallel; embeddings are gathered in batch order before the memory moves, so that every
process holds the same memory as a single process would.
"""

# B = batch, b = this process's part of it, P = clusters in a batch, D = embedding, N = rows

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import distributed

from reidge.edge.errors import InputError, ReidgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor, nn

T = TypeVar("T")

LONGEST_WAIT = timedelta(hours=12)
"""For the leading process, which clusters and evaluates alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The processes of a run."""

    rank: int = 0
    """This one's number; 0 alone writes files and speaks."""
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def part(self, total: int, unit: int = 1) -> slice:
        """Return this process's share of `total` rows, of which units of rows that belong together stay whole."""
        return self._parts(total, unit)[self.rank]

    def _parts(self, total: int, unit: int) -> list[slice]:
        shared, left = divmod(total // unit, self.size)
        stops = [unit * (shared * rank + min(rank, left)) for rank in range(self.size)] + [total]
        return [slice(*edges) for edges in pairwise(stops)]

    def gather(self, part_bD: Tensor, total: int, unit: int = 1) -> Tensor:
        """Join the rows that `part` shared out, in their order, on every process."""
        if self.size == 1:
            return part_bD
        sizes = [rows.stop - rows.start for rows in self._parts(total, unit)]
        padded = part_bD.new_zeros(max(sizes), *part_bD.shape[1:])
        padded[: len(part_bD)] = part_bD
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([rows[:size] for rows, size in zip(parts, sizes, strict=True)])

    def mean(self, value: Tensor) -> Tensor:
        """Average a number over the processes."""
        if self.size > 1:
            value = value.detach().clone()
            distributed.all_reduce(value)
            value /= self.size
        return value

    def from_leader(self, compute: Callable[[], T]) -> T:
        """Let the leading process compute something, and hand it to all; where it fails, the others end in silence."""
        if self.size == 1:
            return compute()
        box: list[T | None] = [None]
        try:
            box = [compute()] if self.leads else [None]
        finally:
            distributed.broadcast_object_list(box, src=0)
        if box[0] is None:
            raise SystemExit(1)
        return box[0]

    def union(self, numbers: Iterable[int]) -> frozenset[int]:
        """Join what each process has found."""
        found: list[frozenset[int]] = [frozenset(numbers)] * self.size
        if self.size > 1:
            distributed.all_gather_object(found, found[0])
        return frozenset().union(*found)

    def share_rows(self, whole_ND: Tensor) -> None:
        """Fill in the rows of the other processes, in place: each has its own `part`, and no second copy is made."""
        if self.size > 1:
            for rank, rows in enumerate(self._parts(len(whole_ND), 1)):
                distributed.broadcast(whole_ND[rows], src=rank)

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            distributed.barrier()

    def share_buffers(self, network: nn.Module) -> None:
        """Give every process the batch-norm statistics of the leading one, which saw the first group of each batch."""
        if self.size > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, src=0)


@contextmanager
def open_world(device: str) -> Iterator[tuple[World, str]]:
    """Join the processes that torchrun started, if it did; also return this process's device.

    What goes wrong on another process than the leading one is said under its number.

    Raises:
        InputError: torchrun started more processes than there are GPUs, or one GPU is named for all.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), device
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda:"):
        raise InputError(f"loop.device {device} is one GPU for {size} processes. Set it to cuda: each takes its own.")
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(
                f"torchrun started process {local + 1} on a machine with {torch.cuda.device_count()} GPUs. "
                "Give --nproc-per-node as many, or --set loop.device=cpu."
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    world = World(rank=distributed.get_rank(), size=size)
    try:
        yield world, device
    except ReidgeError as error:
        if world.leads:
            raise
        print(f"process {world.rank}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_status) from error
    finally:
        distributed.destroy_process_group()
