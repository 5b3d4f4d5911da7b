"""What was measured to be the fastest backend for a bundle on this machine, so that `auto` can take it.

A measurement is a small JSON file in the user's cache folder. It counts only for the very graphs, runtimes and machine
it was made with; where any of them differs, or the file cannot be read, there is no measurement.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from reidge.edge.backends.presence import Backend
from reidge.edge.bundle import ONNX_NAMES, Precision
from reidge.edge.engine_cache import default_folder
from reidge.edge.errors import InputError, ReidgeError

if TYPE_CHECKING:
    from pathlib import Path

    from reidge.edge.bundle import Bundle

RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")


class Choice(BaseModel, frozen=True, extra="forbid"):
    """One way to run a bundle."""

    backend: Backend
    precision: Precision


def recall(bundle: Bundle) -> Choice | None:
    """The choice that was kept for this bundle on this machine; None for none."""
    try:
        return Choice.model_validate_json(choice_path(bundle).read_bytes())
    except (OSError, InputError, ValidationError):  # a hint only: without it there is still the usual order
        return None


def remember(bundle: Bundle, choice: Choice) -> Path:
    """Keep a choice, and return where.

    Raises:
        ReidgeError: The cache folder cannot be written.
    """
    path = choice_path(bundle)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(choice.model_dump_json() + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ReidgeError(
            f"the choice cannot be kept in {path.parent}: {error.strerror}. Set REIDGE_CACHE to a folder that can be "
            f"written, or name the backend in the site file: encoder: {{backend: {choice.backend}}}"
        ) from error
    return path


def choice_path(bundle: Bundle) -> Path:
    """Where the choice for a bundle is kept."""
    facts = [
        [entry.sha256 for name, entry in sorted(bundle.manifest.files.items()) if name in ONNX_NAMES.values()],
        [installed_version(name) for name in RUNTIMES],
        [platform.node(), platform.machine(), os.cpu_count()],
    ]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return default_folder().parent / "choices" / f"{digest[:32]}.json"


def installed_version(distribution: str) -> str:
    """Version of an installed package; empty where it is absent or came by other ways than pip."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
