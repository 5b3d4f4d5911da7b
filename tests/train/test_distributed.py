from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reidge.train.distributed import World

STEPS = Path(__file__).with_name("steps.py")


def torchrun(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Start two processes that meet on a port of their own choice."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launch, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def steps(crops: Path, out: Path, *overrides: str, processes: int = 1) -> dict[str, torch.Tensor]:
    if processes == 1:
        runpy.run_path(str(STEPS))["take_steps"](crops, out, overrides)
    else:
        done = torchrun(STEPS, crops, out, *overrides, cwd=out.parent)
        assert done.returncode == 0, done.stderr
    return dict(torch.load(out, weights_only=True))


@pytest.fixture(scope="module")
def alone(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What one process comes to in five steps."""
    return steps(crops, tmp_path_factory.mktemp("steps") / "alone.pt")


@pytest.mark.parametrize(("processes", "overrides"), [(2, ("loop.accumulate=2",)), (1, ("loop.accumulate=3",))])
def test_shared_and_accumulated_batches_take_the_same_steps(
    processes: int, overrides: tuple[str, ...], alone: dict[str, torch.Tensor], crops: Path, tmp_path: Path
) -> None:
    assert len(alone["losses"]) == 5
    found = steps(crops, tmp_path / "found.pt", *overrides, processes=processes)
    for name in ("losses", "centroids"):
        torch.testing.assert_close(found[name], alone[name], atol=1e-5, rtol=0)
    for name, expected in alone.items():  # weights, and statistics that only the first group may move
        torch.testing.assert_close(found[name], expected, atol=1e-4, rtol=1e-4)


def test_rows_are_shared_out_in_whole_units_and_come_to_all_of_them() -> None:
    worlds = [World(rank=rank, size=3) for rank in range(3)]
    assert [world.part(20, 4) for world in worlds] == [slice(0, 8), slice(8, 16), slice(16, 20)]
    assert [world.part(11, 4) for world in worlds] == [slice(0, 4), slice(4, 8), slice(8, 11)]
    assert World().part(7) == slice(0, 7)


@pytest.mark.parametrize("memory_gib", [8, 2e-4], ids=["features in memory", "features in a file"])
def test_a_whole_run_under_torchrun_leaves_one_run_folder(memory_gib: float, crops: Path, tmp_path: Path) -> None:
    overrides = (
        "encoder.input_size=[64, 32]", "encoder.ghost_batch=8", "warmup.epochs=1", "warmup.iters=2", "loop.epochs=1",
        "loop.iters=2", "sampler.clusters=4", "sampler.images=4", "loop.device=cpu",
        f"cluster.memory_gib={memory_gib}",
    )  # fmt: skip
    sets = [word for override in overrides for word in ("--set", override)]
    run_dir = tmp_path / "run"
    command: tuple[str | Path, ...] = ("-m", "reidge.cli.main", "train", crops, "--output", run_dir, *sets)
    done = torchrun(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train 2/2") == 2  # extract and train, each said once
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["warmup", "cluster"]
    assert (tmp_path / "run" / "report.html").is_file()
    again = torchrun(*command, cwd=tmp_path)
    assert again.returncode != 0
    assert again.stderr.count("already exists") == 1
