"""The figures of the README: the whole trip on simulated sites of several seeds, with the machine it ran on.

    .venv/bin/python benchmarks/demo.py --seeds 0 2 3

writes benchmarks/results/demo-seed<N>.json after each seed. Seeds 0 and 1 were looked at while the demo was built,
others not.
"""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from reidge.cli.machine import describe_cpu, describe_memory, describe_system
from reidge.demo.site import SiteConfig
from reidge.demo.trip import clear, run_demo
from reidge.train.recipe import load_recipe

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("reidge", "torch", "torchvision", "openvino", "onnxruntime", "onnx", "opencv-python", "av", "numpy")


def main() -> None:
    """Run the demo once for each seed and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/benchmark"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 2, 3])
    args = parser.parse_args()
    for seed in args.seeds:
        clear(args.output / str(seed))
        site = SiteConfig(seed=seed)
        figures = run_demo(args.output / str(seed), load_recipe("quick", [f"loop.seed={seed}"]), site)
        result = {
            "seed": seed,
            "date": datetime.now(timezone.utc).date().isoformat(),
            "machine": {"system": describe_system(), "cpu": describe_cpu(), "memory": describe_memory()},
            "versions": {name: version(name) for name in PACKAGES},
            "site": site.model_dump(exclude={"seed"}),
            "figures": figures,
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"demo-seed{seed}.json").write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
