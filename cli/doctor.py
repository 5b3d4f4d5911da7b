"""`reidge doctor`: what this machine can do, what is missing, and the command that gets it."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from importlib.metadata import requires, version
from typing import TYPE_CHECKING, Any

from reidge.cli.main import STAGES
from reidge.cli.output import add_json_argument, emit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence

    Packages = Mapping[str, Mapping[str, Any]]

CORE = "core"
EXTRAS = (CORE, "edge", "encryption", "cpu", "cuda", "train", "export")
MODULES = {
    "faiss-cpu": "faiss",
    "onnxruntime-gpu": "onnxruntime",
    "opencv-python": "cv2",
    "paho-mqtt": "paho",
    "prometheus-client": "prometheus_client",
    "PyYAML": "yaml",
    "scikit-learn": "sklearn",
}
"""Import name of each distribution that is not imported by its own name."""
BACKENDS = ("openvino", "onnxruntime")
NEEDS = {
    "demo": ("edge", "train", "export"),
    "harvest": ("edge",),
    "train": ("train",),
    "evaluate": ("train",),
    "export": ("export",),
    "export detector": ("edge", "export"),
    "engine": (),
    "drift": ("export",),
    "bench": (),
    "run": ("edge",),
    "gallery": ("edge",),
    "doctor": (),
}
"""The extras each stage needs beside the core."""
NEED_A_BACKEND = ("demo", "export", "export detector", "drift", "bench", "run", "gallery")
"""One of `BACKENDS` suffices."""
RUN_ON_A_GPU = ("bench", "run", "gallery")
"""TensorRT suffices too, where there is a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One package that an extra of this project asks for."""

    distribution: str
    specifier: str
    """As pip takes it, e.g. `onnx>=1.16`."""

    @property
    def module(self) -> str:
        """The name it is imported by."""
        return MODULES.get(self.distribution, self.distribution)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `reidge doctor`."""
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Examine the machine and report; 1 when no stage at all can run here, else 0."""
    report = examine()
    if args.json:
        emit(args, report)
    else:
        print("\n".join(lines_of(report)))
    works = any(state["works"] for stage, state in report["stages"].items() if stage != "doctor")
    return 0 if works else 1


def examine() -> dict[str, Any]:
    """Probe the machine and every package; takes seconds, since each package is really imported."""
    from concurrent.futures import ThreadPoolExecutor

    from reidge.cli import machine
    from reidge.cli.probe import probe
    from reidge.edge.progress import Progress

    wanted = requirements()
    modules = sorted({need.module for needs in wanted.values() for need in needs})
    packages: dict[str, dict[str, Any]] = {}
    cpu = machine.describe_cpu()
    with Progress("doctor", total=len(modules), unit="packages") as progress, ThreadPoolExecutor(cpu["cores"]) as pool:
        for module, facts in zip(modules, pool.map(probe, modules), strict=True):
            packages[module] = facts
            progress.advance(note=module)
    gpus = machine.describe_gpus()
    return {
        "reidge": version("reidge"),
        **machine.describe_system(),
        "cpu": cpu,
        "memory": machine.describe_memory(),
        "gpus": gpus,
        "packages": packages,
        "gstreamer": machine.describe_gstreamer(),
        "extras": {name: examine_extra(name, wanted[name], packages, gpus) for name in EXTRAS},
        "stages": {stage: examine_stage(stage, wanted, packages, gpus) for stage in STAGES},
        "findings": list(findings(packages, gpus)),
    }


def requirements() -> dict[str, list[Requirement]]:
    """Read from the installed metadata what each extra asks for, the extras within it included."""
    wanted: dict[str, list[Requirement]] = {name: [] for name in EXTRAS}
    for text in requires("reidge") or []:
        specifier, _, marker = (part.strip() for part in text.partition(";"))
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        owner = extra[1] if extra else CORE
        if owner not in wanted:
            continue
        name = re.match(r"[\w.-]+", specifier)
        assert name is not None, text
        if name[0] == "reidge":
            inner = specifier.partition("[")[2].partition("]")[0].split(",")
            wanted[owner] += [need for other in inner for need in wanted[other.strip()]]
        else:
            wanted[owner].append(Requirement(distribution=name[0], specifier=specifier))
    return wanted


def usable(package: Mapping[str, Any]) -> bool:
    """Say whether a package was imported without trouble."""
    return "missing" not in package and "error" not in package


def satisfied(need: Requirement, packages: Packages) -> bool:
    """Say whether a requirement is met; the two builds of ONNX Runtime share one import name."""
    package = packages[need.module]
    if need.distribution == "onnxruntime-gpu":
        return usable(package) and "CUDAExecutionProvider" in package.get("providers", ())
    return usable(package)


def examine_extra(
    name: str, needs: Iterable[Requirement], packages: Packages, gpus: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Say what of an extra is missing or broken, and the command that gets it."""
    lacking = [need for need in needs if not satisfied(need, packages)]
    report: dict[str, Any] = {"complete": not lacking, "lacking": [need.distribution for need in lacking]}
    if lacking:
        report["install"] = install_command(lacking, packages)
    if lacking and name == "cuda":
        if any("linux_for_tegra" in gpu for gpu in gpus):
            report["note"] = "on a Jetson take the packages that belong to its JetPack, not these"
        elif not gpus:
            report["note"] = "of no use here: no NVIDIA GPU was found"
    return report


def install_command(lacking: Sequence[Requirement], packages: Packages) -> str:
    """Write the pip command; broken packages are installed afresh, and one ONNX Runtime makes way for the other."""
    if importlib.util.find_spec("pip"):
        install, uninstall = f"{sys.executable} -m pip install", f"{sys.executable} -m pip uninstall -y"
    else:  # an environment made by uv holds no pip
        install, uninstall = (f"uv pip {verb} --python {sys.executable}" for verb in ("install", "uninstall"))
    again = " --force-reinstall" if any("error" in packages[need.module] for need in lacking) else ""
    command = f"{install}{again} " + " ".join(f"'{need.specifier}'" for need in lacking)
    replaces = any(need.distribution == "onnxruntime-gpu" for need in lacking) and usable(packages["onnxruntime"])
    return f"{uninstall} onnxruntime && {command}" if replaces else command


def examine_stage(
    stage: str,
    wanted: Mapping[str, list[Requirement]],
    packages: Packages,
    gpus: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Say whether a stage can run here, on what, and which packages it lacks."""
    if stage == "doctor":
        return {"works": True, "lacking": []}
    needs = [need for extra in (CORE, *NEEDS[stage]) for need in wanted[extra]]
    lacking = list(dict.fromkeys(need.distribution for need in needs if not usable(packages[need.module])))
    candidates = ("tensorrt", *BACKENDS) if gpus and stage in RUN_ON_A_GPU else BACKENDS
    backends = [name for name in candidates if usable(packages[name])]
    if stage in NEED_A_BACKEND and not backends:
        lacking.append(" or ".join(BACKENDS))
    if stage == "engine" and not usable(packages["tensorrt"]):
        lacking.append("tensorrt")  # a Jetson's own, so not by way of the extra
    report: dict[str, Any] = {"works": not lacking, "lacking": lacking}
    if stage in ("train", "evaluate") and not lacking:
        report["on"] = packages["torch"].get("gpus") or ["CPU"]
    if stage in NEED_A_BACKEND and not lacking:
        report["on"] = backends
    return report


def findings(packages: Packages, gpus: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Name what is present but does not work, one line each."""
    for module, facts in packages.items():
        trouble = facts.get("error") or facts.get("problem")
        if trouble:
            yield f"{module}: {trouble}"
    torch = packages["torch"]
    if gpus and usable(torch) and not torch.get("gpus"):
        built = torch.get("built_for_cuda")
        yield (
            f"torch cannot use the {gpus[0]['name']}: it was built for CUDA {built}. Compare the driver with that."
            if built
            else f"torch cannot use the {gpus[0]['name']}: this is a build without CUDA."
        )


def lines_of(report: Mapping[str, Any]) -> Iterable[str]:
    """Write the report for people."""
    cpu, memory = report["cpu"], report["memory"]
    fast = ", ".join(cpu["int8_instructions"]) or "no INT8 instructions"
    yield f"reidge {report['reidge']}, Python {report['python']}, {report['system']} {report['release']}"
    yield f"CPU        {cpu['model']}, {cpu['machine']}, {cpu['cores']} cores; {fast}"
    yield f"Memory     {', '.join(f'{amount} GiB {name[:-4]}' for name, amount in memory.items())}"
    yield from (f"GPU        {', '.join(str(value) for value in gpu.values())}" for gpu in report["gpus"])
    if not report["gpus"]:
        yield "GPU        none found"
    yield f"GStreamer  {said(report['gstreamer']) if report['gstreamer']['installed'] else 'tools not installed'}"
    yield "\nPackages"
    yield from (f"  {module:<12} {said(facts)}" for module, facts in report["packages"].items())
    yield "\nExtras"
    for name, extra in report["extras"].items():
        yield f"  {name:<12} {'complete' if extra['complete'] else 'lacks ' + ', '.join(extra['lacking'])}"
        yield from (f"  {'':<12} {extra[key]}" for key in ("note", "install") if key in extra)
    yield "\nStages"
    for stage, state in report["stages"].items():
        answer = "works" if state["works"] else "lacks " + ", ".join(state["lacking"])
        yield f"  {stage:<12} {answer}" + (f" on {', '.join(state['on'])}" if "on" in state else "")
    if report["findings"]:
        yield "\nFindings"
        yield from (f"  {finding}" for finding in report["findings"])


def said(facts: Mapping[str, Any]) -> str:
    """Write the facts of one package in a line."""
    if facts.get("missing"):
        return "missing"
    if "error" in facts:
        return f"broken: {facts['error']}"
    parts = [str(facts["version"])]
    for name, value in facts.items():
        if name not in ("version", "installed"):
            values = list(value) if isinstance(value, (list, dict)) else [str(value)]
            parts.append(f"{name.replace('_', ' ')}: {', '.join(values) or 'none'}")
    return "; ".join(parts)
