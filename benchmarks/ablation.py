"""What each part of the training is worth: one change at a time, on the simulated data set, over several seeds.

    .venv/bin/python benchmarks/ablation.py --setting cpu           # under two hours on two cores
    .venv/bin/python benchmarks/ablation.py --setting cpu --table   # writes the tables of docs/results.md

Per seed one encoder is warmed up on tracklets, and every configuration begins with it. Each run is a process of its
own. Runs that are done are kept in `OUTPUT/runs.jsonl` and skipped when the command is given
again; the result is written to benchmarks/results/ablation-SETTING.json after each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablation_tables import START, write_tables
from publish import DOCUMENT, RESULTS, provenance, write_result
from simulated import SETTINGS, count, ensure, measure_difficulty

from reidge.edge.errors import ReidgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TRIAL = Path(__file__).with_name("trial.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How large everything is."""

    recipe: str
    base: tuple[str, ...]
    """Overrides of every run."""
    warmup: tuple[str, ...]
    """Overrides of the run on tracklets."""
    ghost_batch: int
    """Images that share batch-norm statistics: four identities, as in the published runs."""
    ghost: bool
    """Whether all configurations have ghost batch norm."""
    factor: float
    """DCPS: the published 0.99 is for 70 epochs; this one brings eps from 0.7 to about 0.4 within the run."""
    teacher_momentum: float
    """Likewise: the published 0.999 averages over the last thousand of 14,000 steps, this one over about a tenth."""
    jobs: int
    threads: int | None
    """Of each run; None leaves it to torch."""


# A run has at least one epoch of clusters, so the warm-up ends with one step that moves nothing.
STANDSTILL = ("loop.epochs=1", "loop.iters=1", "optim.lr=1.0e-12")
RUN_SETTINGS = {
    "tiny": Setting(
        recipe="quick",
        base=("encoder.input_size=[64, 32]", "augment.pad=4", "sampler.clusters=4", "sampler.images=4",
              "loop.epochs=2", "loop.iters=2", "loop.evaluate_every=1", "loop.device=cpu"),
        warmup=("warmup.epochs=1", "warmup.iters=4"),
        ghost_batch=8, ghost=False, factor=0.9, teacher_momentum=0.9, jobs=2, threads=1,
    ),
    "cpu": Setting(
        recipe="quick",
        base=("encoder.input_size=[64, 32]", "augment.pad=4", "loop.epochs=12", "loop.iters=30",
              "loop.evaluate_every=1", "loop.device=cpu"),
        warmup=("warmup.epochs=4", "warmup.iters=30"),
        ghost_batch=32, ghost=False, factor=0.955, teacher_momentum=0.97, jobs=2, threads=1,
    ),
    "gpu": Setting(
        recipe="cluster-contrast/market1501",
        base=("encoder.architecture=resnet18", "encoder.weights=null", "augment.jitter=0.4", "optim.schedule=cosine",
              "loop.epochs=20", "loop.iters=100", "loop.evaluate_every=1", "loop.device=cuda",
              "loop.precision=bfloat16"),
        warmup=("warmup.epochs=6", "warmup.iters=100"),
        ghost_batch=64, ghost=True, factor=0.966, teacher_momentum=0.993, jobs=1, threads=None,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One row of the table: what differs from Cluster Contrast as published."""

    name: str
    overrides: tuple[str, ...]


BASE = "Cluster Contrast: `sequential`, DBSCAN"
PLAIN_MEAN = "plain mean (`weighted`, tau 1000)"
WEIGHTED = "DCCC: its rule alone (`weighted`, tau 0.03)"
CLAIMS = (
    ("A memory of clusters beats one of instances (Dai et al.)", BASE, "Instance memory"),
    ("Order in the update beats the plain mean (Dai et al., published code)", BASE, PLAIN_MEAN),
    ("The hardest member beats the sequence (Dai et al., IBN variant)", "rule `hardest`", BASE),
    ("InfoMap beats DBSCAN (Dai et al., published figures)", "InfoMap", BASE),
    ("The falling eps helps (He et al.)", "DCCC: its schedule alone", BASE),
    ("The weighted update helps (He et al.)", WEIGHTED, BASE),
    ("The weighted update beats the plain mean (He et al.)", WEIGHTED, PLAIN_MEAN),
    ("The soft loss with a teacher helps (He et al.)", "DCCC: its soft loss and teacher alone", BASE),
    ("DCCC beats Cluster Contrast (He et al.)", "DCCC", BASE),
    ("Prototypes from attention help (robust, abstract)", "robust: attention initialiser alone", BASE),
    ("The hardest positive by dispersion helps (robust, abstract)", "robust: `dispersion` alone", BASE),
    ("Robust contrast beats Cluster Contrast (abstract)", "robust (a reconstruction)", BASE),
    ("Batch norm of four identities beats that of the batch (reported)", "ghost batch norm on", BASE),
    ("Batch norm of four identities beats that of the batch (reported)", BASE, "ghost batch norm off"),
)
"""What is claimed, and the names of the better and the worse row; a claim about an absent row is passed over."""


def configurations(setting: Setting) -> list[Configuration]:
    """Name every run of a seed."""
    weighted = ("memory.rule=weighted", "memory.tau=0.03")
    schedule = ("cluster.eps=0.7", "cluster.schedule.kind=exponential", f"cluster.schedule.factor={setting.factor}")
    soft = ("contrast.soft_weight=1", "contrast.smoothing=0.3", f"teacher.momentum={setting.teacher_momentum}")
    attention, dispersion = ("memory.initialiser=attention",), ("memory.rule=dispersion",)
    ghost = f"encoder.ghost_batch={'null' if setting.ghost else setting.ghost_batch}"
    rows: dict[str, tuple[str, ...]] = {
        "Instance memory": ("memory.level=instance",),
        BASE: (),
        "rule `hardest`": ("memory.rule=hardest",),
        "rule `weighted`, tau 0.09": ("memory.rule=weighted", "memory.tau=0.09"),
        PLAIN_MEAN: ("memory.rule=weighted", "memory.tau=1000"),
        "HDBSCAN": ("cluster.method=hdbscan",),
        "InfoMap": ("cluster.method=infomap",),
        "k-means": ("cluster.method=kmeans",),
        "agglomerative": ("cluster.method=agglomerative",),
        "DCCC: its schedule alone": schedule,
        WEIGHTED: weighted,
        "DCCC: its soft loss and teacher alone": soft,
        "DCCC": (*schedule, *weighted, *soft),
        "robust: attention initialiser alone": attention,
        "robust: `dispersion` alone": dispersion,
        "robust (a reconstruction)": (*attention, *dispersion),
        f"ghost batch norm {'off' if setting.ghost else 'on'}": (ghost,),
    }
    return [Configuration(name=name, overrides=overrides) for name, overrides in rows.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run to be made."""

    name: str
    seed: int
    recipe: str
    overrides: tuple[str, ...]
    weights: str | None
    """File to begin with; None for the warm-up itself."""

    @property
    def key(self) -> dict[str, Any]:
        """What must be the same for an earlier result to count."""
        named = {"name": self.name, "seed": self.seed, "recipe": self.recipe, "overrides": list(self.overrides)}
        return {**named, "weights": self.weights}

    @property
    def folder(self) -> str:
        """Path of the run folder below the output."""
        slug = "-".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split())
        return f"seed{self.seed}/{slug}"


class Ledger:
    """The runs that are done, one JSON line each.

    Args:
        path: Made with the first run.
        publish: Given all runs after each.
    """

    def __init__(self, path: Path, publish: Callable[[list[dict[str, Any]]], None]) -> None:
        self._path, self._publish = path, publish
        self._lock = threading.Lock()
        lines = path.read_text().splitlines() if path.is_file() else []
        self.runs: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith("}")]
        self._write()  # without a line that an interruption cut off

    def find(self, job: Job) -> dict[str, Any] | None:
        """Return the run of a job, or None before it is done."""
        return next((run for run in self.runs if all(run.get(name) == value for name, value in job.key.items())), None)

    def add(self, run: dict[str, Any]) -> None:
        """Remember a run, in place of one of the same name and seed under an older recipe."""
        with self._lock:
            self.runs = [old for old in self.runs if (old["name"], old["seed"]) != (run["name"], run["seed"])]
            self.runs.append(run)
            self._write()
            self._publish(self.runs)

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(run) + "\n" for run in self.runs))
        partial.replace(self._path)


def run_all(args: argparse.Namespace, ledger: Ledger) -> bool:
    """Do what is not done yet: the warm-ups first, then every configuration; False where a run failed."""
    setting = RUN_SETTINGS[args.setting]
    base = (*setting.base, *args.set)
    chosen = [c for c in configurations(setting) if not args.only or any(part in c.name for part in args.only)]
    starts, jobs = [], []
    for seed in args.seeds:
        seeded = (*base, f"loop.seed={seed}")
        if args.weights is None:
            warmup = (*seeded, *setting.warmup, *STANDSTILL)
            starts.append(Job(name=START, seed=seed, recipe=setting.recipe, overrides=warmup, weights=None))
        weights = args.weights or str(args.output / f"seed{seed}" / START / "encoder.safetensors")
        for row in chosen:
            overrides = (*seeded, *row.overrides)
            jobs.append(Job(name=row.name, seed=seed, recipe=setting.recipe, overrides=overrides, weights=weights))
    return all(_run_jobs(part, args, ledger) for part in (starts, jobs))


def _run_jobs(jobs: Sequence[Job], args: argparse.Namespace, ledger: Ledger) -> bool:
    waiting = [job for job in jobs if ledger.find(job) is None]
    began, done = time.monotonic(), 0

    def work(job: Job) -> bool:
        nonlocal done
        run = _run_process(job, args)
        if run is not None:
            ledger.add(run)
        done += 1
        minutes = (time.monotonic() - began) / 60
        left = minutes / done * (len(waiting) - done)
        figures = "failed" if run is None else f"mAP {100 * run['mAP']:.1f}, {run['seconds']:.0f} s"
        print(
            f"{done}/{len(waiting)} seed {job.seed} {job.name}: {figures}; about {left:.0f} minutes left",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        return run is not None

    with ThreadPoolExecutor(args.jobs or RUN_SETTINGS[args.setting].jobs) as pool:
        return all(list(pool.map(work, waiting)))


def _run_process(job: Job, args: argparse.Namespace) -> dict[str, Any] | None:
    """Train in a process of its own; None where it failed, which it has said on stderr."""
    threads = RUN_SETTINGS[args.setting].threads
    limits = {} if threads is None else {name: str(threads) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    order = {**job.key, "data": str(args.output / "data"),
             "run": str(args.output / job.folder)}  # fmt: skip
    process = subprocess.run(
        [sys.executable, str(TRIAL), json.dumps(order)], env={**os.environ, **limits}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if process.returncode:
        print("\n".join(process.stderr.splitlines()[-3:]), file=sys.stderr, flush=True)
        return None
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return {**job.key, **figures}


def main() -> int:
    """Run what is missing, or write the tables of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=RUN_SETTINGS, default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", action="append", help="configurations whose name contains this; may be repeated")
    parser.add_argument("--jobs", type=int, help="runs side by side")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe of all runs")
    parser.add_argument("--weights", help="begin with these, `imagenet` or a file, instead of a warm-up on tracklets")
    parser.add_argument("--output", type=Path, help="working folder (default: out/ablation-SETTING)")
    parser.add_argument("--result", type=Path, help="(default: benchmarks/results/ablation-SETTING.json)")
    parser.add_argument("--list", action="store_true", help="list the configurations and what they change")
    parser.add_argument("--table", action="store_true", help="write the tables of docs/results.md and run nothing")
    args = parser.parse_args()
    names = [START, *(row.name for row in configurations(RUN_SETTINGS[args.setting]))]
    if args.list:
        print("\n".join(f"{row.name}: {' '.join(row.overrides)}" for row in configurations(RUN_SETTINGS[args.setting])))
        return 0
    args.result = args.result or RESULTS / f"ablation-{args.setting}.json"
    if args.table:
        write_tables(json.loads(args.result.read_text()), names, CLAIMS, DOCUMENT)
        return 0
    args.output = args.output or Path("out") / f"ablation-{args.setting}"
    ensure(SETTINGS[args.setting], args.output / "data")
    about = {**provenance(), "setting": args.setting, "data": _describe_data(args)}
    ledger = Ledger(args.output / "runs.jsonl", lambda runs: write_result(args.result, {**about, "runs": runs}))
    return 0 if run_all(args, ledger) else 1


def _describe_data(args: argparse.Namespace) -> dict[str, Any]:
    data = args.output / "data"
    return {
        "config": SETTINGS[args.setting].model_dump(),
        "counts": count(data),
        "difficulty": measure_difficulty(data),
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ReidgeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
