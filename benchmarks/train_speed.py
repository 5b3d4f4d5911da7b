"""How much of the bare training step's speed the real loop keeps.

    .venv/bin/python benchmarks/train_speed.py --device cpu
    .venv/bin/python benchmarks/train_speed.py --device cuda --encoder resnet50

The bare step is forward, contrastive loss, backward and optimiser on tensors that are ready on the device. The loop is
a real `train()`: crops are drawn, seen at random and normalised, and the memory moves. Both have the same encoder,
batch, precision and threads, and take turns in one process. The labels are the data's own, so that the loop's
batches are full whatever the encoder has learnt.
"""

# B = batch, D = embedding, K = clusters, H, W = input height and width

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from publish import DOCUMENT, RESULTS, markdown_table, provenance, put_between_markers, ran_on, write_result
from simulated import SETTINGS, ensure
from torch.nn import functional

from reidge.edge.errors import ReidgeError
from reidge.train.distributed import World
from reidge.train.loop import train
from reidge.train.recipe import Recipe, load_recipe
from reidge.train.run import Run, open_run

if TYPE_CHECKING:
    from collections.abc import Sequence

RECIPES = {"cpu": "quick", "cuda": "cluster-contrast/market1501"}
PRECISION = {"cpu": "float32", "cuda": "bfloat16"}
GOALS = {"cpu": 0.8, "cuda": 0.9}
"""Least ratio that is good enough."""
CLUSTERS = 100
WARM_STEPS = 3
"""Bare steps before the clock starts; the loop's first epoch is left out likewise."""


def build_recipe(args: argparse.Namespace) -> Recipe:
    """Shape a run that measures well: constant labels, no warm-up, no evaluation."""
    encoder = [] if args.encoder is None else [f"encoder.architecture={args.encoder}"]
    return load_recipe(
        args.recipe or RECIPES[args.device],
        [
            "encoder.weights=null", *encoder, "cluster.method=labels", f"loop.device={args.device}",
            f"loop.precision={PRECISION[args.device]}", f"loop.epochs={args.epochs + 1}", f"loop.iters={args.steps}",
            *args.set,
        ],
    )  # fmt: skip


def measure(recipe: Recipe, data: Path, work: Path, *, rounds: int) -> list[dict[str, float]]:
    """Take turns: some bare steps, then a run of the loop; images per second of each."""
    run = open_run(recipe, data, work / "bare", None, world=World(), device=recipe.loop.device)
    return [
        {"bare": bare_speed(run, steps=recipe.loop.iters * (recipe.loop.epochs - 1)), **loop_speed(recipe, data, work)}
        for _ in range(rounds)
    ]


def bare_speed(run: Run, *, steps: int) -> float:
    """Images per second of forward, loss, backward and optimiser on one batch that never changes."""
    images, device = run.recipe.sampler.clusters * run.recipe.sampler.images, run.device
    views_B3HW = torch.randn(images, *run.encoder.input_size, 3, device=device).permute(0, 3, 1, 2)
    labels_B = torch.arange(run.recipe.sampler.clusters, device=device).repeat_interleave(run.recipe.sampler.images)
    centroids_KD = functional.normalize(torch.randn(CLUSTERS, run.encoder.embedding_dim, device=device), dim=1)
    run.encoder.train()
    for step in range(WARM_STEPS + steps):
        if step == WARM_STEPS:
            _wait(device)
            began = time.perf_counter()
        run.optimizer.zero_grad()
        with run.autocast():
            x_BD = run.network(views_B3HW).float()
        loss = functional.cross_entropy(x_BD @ centroids_KD.T / run.recipe.memory.temperature, labels_B)
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
    _wait(device)
    return steps * images / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def loop_speed(recipe: Recipe, data: Path, work: Path) -> dict[str, float]:
    """Images per second of the contrastive steps of a real run, and of whole epochs with extraction and clustering."""
    shutil.rmtree(work / "loop", ignore_errors=True)
    train(recipe, data, work / "loop")
    history = [json.loads(line) for line in (work / "loop" / "history.jsonl").read_text().splitlines()][1:]
    images = recipe.loop.iters * recipe.sampler.clusters * recipe.sampler.images
    return {
        "loop": statistics.median(record["images_per_second"] for record in history),
        "epoch": statistics.median(images / record["seconds"] for record in history),
    }


def summarise(recipe: Recipe, rounds: Sequence[dict[str, float]], device: str) -> dict[str, Any]:
    """Put both sides together; the ratio is the median over the rounds."""
    ratios = [turn["loop"] / turn["bare"] for turn in rounds]
    return {
        **provenance(),
        "device": device,
        "encoder": recipe.encoder.architecture,
        "input_size": recipe.encoder.input_size,
        "batch": recipe.sampler.clusters * recipe.sampler.images,
        "precision": recipe.loop.precision,
        "compile": recipe.loop.compile,
        "threads": torch.get_num_threads(),
        "bare_images_per_second": round(statistics.median(turn["bare"] for turn in rounds), 1),
        "loop_images_per_second": round(statistics.median(turn["loop"] for turn in rounds), 1),
        "epoch_images_per_second": round(statistics.median(turn["epoch"] for turn in rounds), 1),
        "ratio": round(statistics.median(ratios), 3),
        "goal": GOALS[device],
        "rounds": [{name: round(speed, 1) for name, speed in turn.items()} for turn in rounds],
    }


def write_table(result: dict[str, Any], document: Path) -> None:
    """Put the result into the document."""
    height, width = result["input_size"]
    header = ["encoder", "bare step, images/s", "loop, images/s", "ratio", "goal", "whole epoch, images/s"]
    row = [
        f"`{result['encoder']}`, {height} x {width}, batch {result['batch']}, {result['precision']}",
        str(result["bare_images_per_second"]), str(result["loop_images_per_second"]), f"{result['ratio']:.2f}",
        f"{result['goal']}", str(result["epoch_images_per_second"]),
    ]  # fmt: skip
    about = f"{result['threads']} threads, {len(result['rounds'])} turns of each, medians. Ran on {ran_on(result)}"
    text = f"{markdown_table(header, [row])}\n\n{about}"
    put_between_markers(document, f"train-speed-{result['device']}", text)


def main() -> int:
    """Measure and write, or write the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=RECIPES, default="cpu")
    parser.add_argument("--encoder", help="architecture, in place of the recipe's")
    parser.add_argument("--recipe", help=f"(default: {' or '.join(RECIPES.values())}, by device)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    parser.add_argument("--data", choices=SETTINGS, default="cpu", help="size of the simulated data set")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--epochs", type=int, default=2, help="of each turn of the loop, a first one not counted")
    parser.add_argument("--steps", type=int, default=20, help="in an epoch")
    parser.add_argument("--output", type=Path, default=Path("out/train-speed"), help="working folder")
    parser.add_argument("--result", type=Path, help="(default: benchmarks/results/train-speed-DEVICE.json)")
    parser.add_argument("--table", action="store_true", help="write the table of docs/results.md and run nothing")
    args = parser.parse_args()
    path = args.result or RESULTS / f"train-speed-{args.device}.json"
    if args.table:
        write_table(json.loads(path.read_text()), DOCUMENT)
        return 0
    recipe = build_recipe(args)
    data = args.output / f"data-{args.data}"
    ensure(SETTINGS[args.data], data)
    result = summarise(recipe, measure(recipe, data, args.output, rounds=args.rounds), args.device)
    write_result(path, result)
    print(json.dumps({name: value for name, value in result.items() if name not in ("machine", "versions")}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ReidgeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
