"""Five steps of training, written down: run by one process or, under torchrun, by several."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from reidge.train.batches import read_batches
from reidge.train.distributed import open_world
from reidge.train.loop import _backward
from reidge.train.objective import ClusterContrast, open_objective
from reidge.train.recipe import load_recipe
from reidge.train.run import open_run

OVERRIDES = (
    "encoder.input_size=[64, 32]", "encoder.ghost_batch=4", "warmup.epochs=0", "sampler.clusters=4",
    "sampler.images=4", "loop.device=cpu", "contrast.soft_weight=0.5",
    # Adam makes full steps of the rounding of gradients that should be 0, so small ones keep runs together.
    "optim.lr=1e-4",
)  # fmt: skip


def take_steps(crops: Path, out: Path, overrides: tuple[str, ...] = (), steps: int = 5) -> None:
    """Leave losses, centroids, weights and batch-norm statistics in `out`."""
    recipe = load_recipe("quick", [*OVERRIDES, *overrides])
    with open_world("cpu") as (world, device):
        run = open_run(recipe, crops, out.parent, None, world=world, device=device)
        assert run.images.tracklets is not None
        labels_N = run.images.tracklets % 8
        features_ND = torch.from_numpy(run.embed(run.images.take(np.arange(len(labels_N)))))
        rng = np.random.default_rng(0)
        objective = open_objective(run, 0, features_ND, labels_N, rng)
        assert isinstance(objective, ClusterContrast)
        assert run.teacher is not None
        run.encoder.train()
        losses = []
        for batch in read_batches(run, labels_N, rng, steps=steps, epoch=0):
            run.optimizer.zero_grad()
            x_BD, loss = _backward(run, objective, batch)
            run.optimizer.step()
            objective.update(x_BD, batch.labels_B, batch.indices_B)
            run.teacher.follow(run.encoder)
            losses.append(loss)
        world.share_buffers(run.encoder)
        if world.leads:
            state = {name: tensor for name, tensor in run.encoder.state_dict().items() if tensor.is_floating_point()}
            torch.save({"losses": torch.stack(losses), "centroids": objective.memory.centroids_KD, **state}, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    take_steps(Path(sys.argv[1]), Path(sys.argv[2]), tuple(sys.argv[3:]))
