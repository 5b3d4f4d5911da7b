"""What the step between two epochs costs, against its definition as public code bases write it, by number of images.

    .venv/bin/python benchmarks/clustering.py                       # every case
    .venv/bin/python benchmarks/clustering.py --case scale --images 1000000
    .venv/bin/python benchmarks/clustering.py --table

`labels`: distances and labels against the dense definition. `speed`: both sides in turn. `scale`: ours alone, up to a
million images. `hub`: images near everything. `gpu`: the whole step on a GPU. Embeddings are simulated
(clustering_features.py) at 2048 dimensions; k1 30, k2 6, eps 0.6, min_samples 4. Each side runs in a process of its
own (clustering_side.py). Peak memory is what the process holds above the embeddings once all code is compiled, as the
kernel counts it. A case replaces its own part of the result and leaves the others.
"""

# N = images

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from clustering_features import Simulation, ensure
from clustering_tables import write_tables
from publish import RESULTS, provenance, write_result

from reidge.cli.machine import describe_memory
from reidge.edge.errors import InputError, ReidgeError

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENT = Path(__file__).parents[1] / "docs" / "scaling.md"
SIDE = Path(__file__).parent / "clustering_side.py"
IMAGES = {
    "labels": (2000, 12_936),
    "speed": (12_936, 32_621),
    "scale": (12_936, 32_621, 100_000, 300_000, 1_000_000),
    "hub": (20_000, 40_000),
    "gpu": (12_936, 32_621),
}
"""12,936 and 32,621 are the training images of Market-1501 and of MSMT17."""
NOISE_LEVELS = (0.8, 1.05, 1.3)
FEWER_THAN_K1 = 20
HUBS = 3
"""Among the 6 neighbours of query expansion. A fourth would bring all images within 0.6 of each other."""
HUB_SPACE = {"dimensions": 512, "decay": 0.0, "noise": 1.7, "uneven": 0.1, "common": 2.0}
"""Where three of nearly every image's 6 nearest are the hubs."""
DENSE_MATRICES = 2.6
"""Matrices of N x N float32 that the dense definition holds at its peak, with room for temporary ones."""


class Sides:
    """Runs the sides of the comparison, and writes the embeddings they read."""

    def __init__(self, work: Path, *, threads: int, dimensions: int) -> None:
        self.work = work
        self.dimensions = dimensions
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}

    def simulate(self, name: str, **shape: Any) -> tuple[Simulation, Path]:
        """Write embeddings, unless they are there from an earlier run."""
        simulation = Simulation(**{"dimensions": self.dimensions, **shape})
        path = self.work / f"{name}.npy"
        ensure(simulation, path)
        return simulation, path

    def plain(self, images: int, args: argparse.Namespace) -> tuple[Simulation, Path]:
        """Write embeddings without copies, isolated images or hubs."""
        shape = {"members": args.members, "noise": args.noise, "decay": args.decay}
        return self.simulate("-".join(map(str, ("plain", images, *shape.values()))), images=images, **shape)

    def run(self, task: str, features: Path, **arguments: Any) -> dict[str, Any]:
        """Run a task in a process of its own and return what it measured.

        Raises:
            ReidgeError: It failed.
        """
        print(f"{task} {features.stem} ...", file=sys.stderr, flush=True)
        command = [sys.executable, str(SIDE), task, json.dumps({"features": str(features), **arguments})]
        done = subprocess.run(command, env=self._environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise ReidgeError(f"{task} of {features} ended with exit status {done.returncode}; see above.")
        figures: dict[str, Any] = json.loads(done.stdout)
        return figures


def compare_labels(sides: Sides, args: argparse.Namespace) -> dict[str, Any]:
    """Compare labels at several sizes and noise levels, with copies and isolated images, and with N < k1."""
    rows = []
    for images, noise in [(FEWER_THAN_K1, 0.5), *((images, noise) for images in args.images for noise in NOISE_LEVELS)]:
        extra = images // 50
        simulation, path = sides.simulate(
            f"labels-{images}-{noise}", images=images - 2 * extra, noise=noise, copies=extra, isolated=extra
        )
        rows.append({"simulation": asdict(simulation), "images": images, **sides.run("compare", path)})
    return {"rows": rows}


def compare_speed(sides: Sides, args: argparse.Namespace) -> dict[str, Any]:
    """Let both sides take turns; ratios are medians over the rounds."""
    rows = []
    for images in args.images:
        simulation, path = sides.plain(images, args)
        needed = DENSE_MATRICES * 4 * images**2 / 2**30
        available = describe_memory().get("available_gib", 0)
        if needed > available:
            print(f"{images} images: dense needs {needed:.0f} GiB, {available:.0f} are free: left out", file=sys.stderr)
            continue
        rounds = []
        for turn in range(args.rounds):
            order = ("dense", "sparse") if turn % 2 == 0 else ("sparse", "dense")
            rounds.append({side: sides.run(side, path) for side in order})
        rows.append({"simulation": asdict(simulation), "images": images, "rounds": rounds, **ratios(rounds)})
    return {"rows": rows}


def ratios(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of each side, and of the ratios of dense to sparse."""
    figures: dict[str, Any] = {}
    for side in ("dense", "sparse"):
        turns = [turn[side] for turn in rounds]
        figures[side] = {
            "knn": statistics.median(turn["knn"]["seconds"] for turn in turns),
            "jaccard": statistics.median(turn["jaccard"]["seconds"] for turn in turns),
            "dbscan": statistics.median(turn["dbscan"]["seconds"] for turn in turns),
            "peak_mib": statistics.median(peak_mib(turn) for turn in turns),
        }
    return figures | {
        "faster": _ratio(rounds, lambda side: seconds(side, "jaccard", "dbscan")),
        "faster_with_knn": _ratio(rounds, lambda side: seconds(side, "knn", "jaccard", "dbscan")),
        "memory": round(statistics.median(peak_mib(turn["sparse"]) / peak_mib(turn["dense"]) for turn in rounds), 4),
    }


def seconds(side: dict[str, Any], *parts: str) -> float:
    """What some parts of a side took together."""
    return float(sum(side[part]["seconds"] for part in parts))


def peak_mib(side: dict[str, Any]) -> float:
    """The most that a side held at a time."""
    return float(max(side[part]["peak_mib"] for part in ("knn", "jaccard", "dbscan") if part in side))


def _ratio(rounds: list[dict[str, Any]], cost: Callable[[dict[str, Any]], float]) -> float:
    return round(statistics.median(cost(turn["dense"]) / max(cost(turn["sparse"]), 1e-3) for turn in rounds), 2)


def measure_scale(sides: Sides, args: argparse.Namespace, earlier: dict[str, Any]) -> dict[str, Any]:
    """Measure neighbours in one process, and the rest in another that reads them: its memory is its own."""
    rows = {json.dumps(row["simulation"]): row for row in earlier.get("rows", [])}
    for images in args.images:
        simulation, path = sides.plain(images, args)
        neighbors, key = path.with_name(f"neighbors-{path.stem}.npz"), json.dumps(asdict(simulation))
        row = rows.get(key, {})
        if args.part != "cluster":
            row |= sides.run("sparse", path, save=str(neighbors))
        elif not neighbors.exists() or neighbors.stat().st_mtime < path.stat().st_mtime:
            raise InputError(f"{neighbors} is not there, or of other embeddings. Run it with --part both.")
        if args.part != "knn":
            row |= sides.run("sparse", path, neighbors=str(neighbors))
        about = {"simulation": asdict(simulation), "images": images, "date": provenance()["date"]}
        rows[key] = {**row, **about}
    return {"rows": sorted(rows.values(), key=lambda row: row["images"])}


def measure_hubs(sides: Sides, args: argparse.Namespace) -> dict[str, Any]:
    """Measure Jaccard and DBSCAN with and without a few images near everything."""
    rows = []
    for images in args.images:
        for hubs in (0, HUBS):
            simulation, path = sides.simulate(f"hub-{images}-{hubs}", images=images, hubs=hubs, **HUB_SPACE)
            rounds = [sides.run("sparse", path, hubs=hubs) for _ in range(args.rounds)]
            figures = {
                "seconds": round(statistics.median(seconds(turn, "jaccard", "dbscan") for turn in rounds), 3),
                "peak_mib": statistics.median(
                    max(turn[p]["peak_mib"] for p in ("jaccard", "dbscan")) for turn in rounds
                ),
            }
            about = {"simulation": asdict(simulation), "images": images, "hubs": hubs, "near": rounds[0]["near_hub"]}
            rows.append({**about, "rounds": rounds, **figures})
    return {"rows": rows}


def measure_gpu(sides: Sides, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the whole step on a GPU."""
    rows = []
    for images in args.images:
        simulation, path = sides.plain(images, args)
        figures = sides.run("gpu", path, rounds=args.rounds)
        row = {"simulation": asdict(simulation), "images": images, **figures}
        rows.append({**row, "seconds": statistics.median(figures["rounds"])})
    return {"rows": rows}


def run_case(case: str, sides: Sides, args: argparse.Namespace, earlier: dict[str, Any]) -> dict[str, Any]:
    """Run a case and say what it ran on."""
    cases: dict[str, Callable[[], dict[str, Any]]] = {
        "labels": lambda: compare_labels(sides, args),
        "speed": lambda: compare_speed(sides, args),
        "scale": lambda: measure_scale(sides, args, earlier),
        "hub": lambda: measure_hubs(sides, args),
        "gpu": lambda: measure_gpu(sides, args),
    }
    return {**provenance(), "threads": args.threads, **cases[case]()}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=IMAGES, action="append", help="(default: all; gpu where there is one)")
    parser.add_argument("--images", type=int, action="append", metavar="N", help="(default: those of the case)")
    parser.add_argument(
        "--members", type=int, default=17, help="images of a person in speed, scale and gpu (default: %(default)s)"
    )
    for name, of in (("noise", "length of an image's own part"), ("decay", "fall of the spectrum")):
        default = Simulation.__dataclass_fields__[name].default
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{of}, likewise (default: %(default)s)")
    parser.add_argument("--dimensions", type=int, default=2048, help="of the embeddings (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of speed, hub and gpu (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of either side (default: %(default)s)")
    parser.add_argument("--part", choices=("both", "knn", "cluster"), default="both", help="of scale, to measure anew")
    parser.add_argument("--output", type=Path, default=Path("out/clustering"), help="working folder, of some 7 GiB")
    parser.add_argument("--result", type=Path, help="(default: benchmarks/results/clustering-cpu.json, -cuda for gpu)")
    parser.add_argument("--table", action="store_true", help="write the tables of docs/scaling.md and run nothing")
    return parser.parse_args(arguments)


def main() -> int:
    """Measure and write, or write the tables of what was measured."""
    args = parse(sys.argv[1:])
    for case in args.case or IMAGES:
        path = args.result or RESULTS / f"clustering-{'cuda' if case == 'gpu' else 'cpu'}.json"
        result = json.loads(path.read_text()) if path.exists() else {"cases": {}}
        if args.table:
            write_tables(result["cases"], case, DOCUMENT)
            continue
        if case == "gpu" and not torch.cuda.is_available():
            print("gpu: left out, there is no CUDA here", file=sys.stderr)
            continue
        sides = Sides(args.output, threads=args.threads, dimensions=args.dimensions)
        own = argparse.Namespace(**{**vars(args), "images": args.images or IMAGES[case]})
        result["cases"][case] = run_case(case, sides, own, result["cases"].get(case, {}))
        write_result(path, result)
        print(json.dumps({case: result["cases"][case]["rows"]}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ReidgeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
