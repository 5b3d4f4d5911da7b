"""The figures of the README: the whole trip on the simulated site, with the machine it ran on.

    .venv/bin/python benchmarks/demo.py --output out/benchmark

writes benchmarks/results/demo.json.
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

RESULT = Path(__file__).parent / "results" / "demo.json"
PACKAGES = ("reidge", "torch", "torchvision", "openvino", "onnxruntime", "onnx", "opencv-python", "av", "numpy")


def main() -> None:
    """Run the demo once and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/benchmark"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    clear(args.output)
    figures = run_demo(args.output, load_recipe("quick", [f"loop.seed={args.seed}"]), SiteConfig(seed=args.seed))
    result = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": {"system": describe_system(), "cpu": describe_cpu(), "memory": describe_memory()},
        "versions": {name: version(name) for name in PACKAGES},
        "seed": args.seed,
        "site": SiteConfig(seed=args.seed).model_dump(),
        "figures": figures,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
