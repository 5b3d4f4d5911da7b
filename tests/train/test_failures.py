"""Training that is cut off or runs out of room: a whole checkpoint is always left, and the run goes on from it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from reidge.edge.errors import InputError
from reidge.train import loop
from reidge.train.loop import train
from reidge.train.recipe import load_recipe
from reidge.train.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

RECIPE = (
    "encoder.input_size=[64, 32]", "warmup.epochs=1", "warmup.iters=2", "loop.epochs=2", "loop.iters=2",
    "sampler.clusters=4", "sampler.images=4", "loop.device=cpu",
)  # fmt: skip

# Runs `reidge train` with one blow prepared: {blow} is struck when last.pt is written for the second time.
PROGRAM = """
import os, resource, signal, sys
import torch
from reidge.cli.main import main
from reidge.train import checkpoint, run_folder

torch.set_num_threads(1)
saved = 0

def save_state(path, state):
    global saved
    saved += 1
    if saved == 2:
        {blow}
    checkpoint.save_state(path, state)

run_folder.save_state = save_state
raise SystemExit(main(sys.argv[1:]))
"""
# Everything of the new file is written, but it does not have its name yet.
KILLED = "os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)"
# To a file that may not grow the kernel says much the same as on a full disk.
FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"


def struck(blow: str, crops: Path, run_dir: Path) -> subprocess.CompletedProcess[str]:
    sets = [word for override in RECIPE for word in ("--set", override)]
    command = [sys.executable, "-c", PROGRAM.format(blow=blow), "train", str(crops), "--output", str(run_dir), *sets]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def untouched(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of the same run without a blow."""
    run_dir = tmp_path_factory.mktemp("untouched") / "run"
    train(load_recipe("quick", RECIPE), crops, run_dir)
    return load_file(run_dir / "encoder.safetensors")


@pytest.mark.parametrize("blow", [KILLED, FULL], ids=["killed", "full"])
def test_a_run_struck_while_saving_goes_on_from_the_last_whole_epoch(
    blow: str, crops: Path, untouched: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    done = struck(blow, crops, run_dir)
    if blow == KILLED:
        assert done.returncode == -signal.SIGKILL
    else:
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.startswith("reidge train: ")
        assert "Free some space and go on with --resume; the last whole epoch is kept." in last
        assert not list(run_dir.glob(".*"))  # nothing half-written takes up room
    assert torch.load(run_dir / "last.pt", weights_only=True)["epoch"] == 1
    assert len((run_dir / "history.jsonl").read_text().splitlines()) == 1

    train(load_recipe("quick", RECIPE), crops, run_dir, resume=True)
    resumed = load_file(run_dir / "encoder.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in untouched.items())


ON_DISK = (*RECIPE, "cluster.memory_gib=2e-4")
"""64 embeddings of 512 dimensions take 1.2e-4 GiB as float32."""
# As above; the blow is struck in the second extraction, when a quarter of it is durable.
EXTRACTING = """
import os, signal, sys
import torch
from reidge.cli.main import main
from reidge.train import features, loop

torch.set_num_threads(1)
loop.CROPS_AT_ONCE = features.SAVE_EVERY = 16
write, written = features.FeatureWriter.write, 0

def count(writer, x_RD):
    global written
    write(writer, x_RD)
    written += 1
    if written == 5:
        os.kill(os.getpid(), signal.SIGKILL)

features.FeatureWriter.write = count
raise SystemExit(main(sys.argv[1:]))
"""


def test_a_run_killed_in_mid_extraction_goes_on_in_the_middle(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CROPS_AT_ONCE", 16)
    recipe, run_dir = load_recipe("quick", ON_DISK), tmp_path / "run"
    train(recipe, crops, tmp_path / "untouched")
    sets = [word for override in ON_DISK for word in ("--set", override)]
    command = [sys.executable, "-c", EXTRACTING, "train", str(crops), "--output", str(run_dir), *sets]
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == -signal.SIGKILL
    assert json.loads((run_dir / "features.f16.0.json").read_text())["done"] == 16

    embedded: list[int] = []
    embed = Run.embed

    def counted(run: Run, x_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        embedded.append(len(x_BHW3))
        return embed(run, x_BHW3)

    monkeypatch.setattr(Run, "embed", counted)
    train(recipe, crops, run_dir, resume=True)
    assert sum(embedded) == 48 + 64  # what was missing of the second extraction, and the third
    resumed, untouched = (load_file(folder / "encoder.safetensors") for folder in (run_dir, tmp_path / "untouched"))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in untouched.items())
    assert not list(run_dir.glob("features*"))


@pytest.mark.parametrize("override", ["memory.level=instance", "distil.encoder={run}"])
def test_what_needs_every_vector_in_memory_is_refused_before_training(
    override: str, crops: Path, tmp_path: Path
) -> None:
    if "run" in override:
        train(load_recipe("quick", RECIPE), crops, tmp_path / "taught")
    recipe = load_recipe("quick", [*ON_DISK, override.format(run=tmp_path / "taught")])
    with pytest.raises(InputError, match=r"vector of each of the 64 crops, .* cluster\.memory_gib 0\.0002\. Allow 1"):
        train(recipe, crops, tmp_path / "run")
