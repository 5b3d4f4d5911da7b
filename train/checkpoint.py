"""Weights and training state on disk: written atomically, read without unpickling."""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from reidge.edge.errors import InputError
from reidge.train.encoders import ARCHITECTURES, build_encoder
from reidge.train.encoders.foreign import fill

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from reidge.train.encoders.encoder import Encoder

ENCODER_NAME = "encoder.safetensors"
STATE_NAME = "last.pt"
HEADER_KEY = "reidge"
HEADER_VERSION = 1


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a sibling file, which then takes the name `path` in one step."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut may leave the new name without the content
        os.replace(partial, path)  # noqa: PTH105 - atomic on POSIX, and what this function is about
    finally:
        partial.unlink(missing_ok=True)


def weights_hash(encoder: Encoder) -> str:
    """Return a name that two encoders share only if all their weights are the same."""
    digest = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def save_encoder(encoder: Encoder, path: Path) -> None:
    """Write weights as safetensors with a JSON header that says how to rebuild the network."""
    header = {"version": HEADER_VERSION, "embedding_dim": encoder.embedding_dim, **asdict(encoder.spec)}
    # One name per tensor and plain layout: safetensors refuses shared and strided storage.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in encoder.state_dict().items()}
    content = save(tensors, metadata={HEADER_KEY: json.dumps(header)})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: partial.write_bytes(content))


def load_encoder(path: Path | str, architecture: str | None = None) -> Encoder:
    """Read an encoder on the CPU, in eval mode.

    Args:
        path: `encoder.safetensors`, a run folder that holds one, or a foreign PyTorch state dict.
        architecture: What a foreign state dict belongs to; the others know.

    Raises:
        InputError: Nothing is there, it does not parse, or it does not fit the architecture.
    """
    path = Path(path)
    file = path / ENCODER_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"{file} does not exist. Give a run folder, {ENCODER_NAME}, or a .pth file with --architecture."
        )
    if file.suffix == ".safetensors":
        return _load_own(file, architecture)
    if architecture is None:
        raise InputError(
            f"{file} does not say what network it belongs to. Add --architecture, one of: {', '.join(ARCHITECTURES)}."
        )
    encoder = build_encoder(architecture)
    load_weights(encoder, file)
    return encoder.eval()


def _load_own(file: Path, architecture: str | None) -> Encoder:
    try:
        with safe_open(file, framework="pt") as reader:
            metadata = reader.metadata() or {}
            tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118 - no mapping
        header = json.loads(metadata[HEADER_KEY])
        known = header.pop("version") == HEADER_VERSION
        dim = header.pop("embedding_dim")
        header["input_size"] = tuple(header["input_size"])
        if not known:
            raise InputError(f"{file} was written by a newer reidge. Update this one.")
        if architecture not in (None, header["architecture"]):
            raise InputError(f"{file} holds {header['architecture']}, not {architecture}. Leave out --architecture.")
        encoder = build_encoder(**header)
        encoder.load_state_dict(tensors)
    except KeyError as error:
        raise InputError(f"{file} has no reidge header. Was it written by reidge train?") from error
    except (SafetensorError, OSError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise InputError(f"{file} is not a whole encoder: {_first_line(error)}. Copy or train it again.") from error
    assert encoder.embedding_dim == dim, file
    return encoder.eval()


def load_weights(encoder: Encoder, file: Path) -> list[str]:
    """Fill `encoder` from a file of weights or from a run folder that holds one; see `fill`.

    Returns:
        Names of the encoder's weights that the file does not have.

    Raises:
        InputError: The file is unreadable or does not fit.
    """
    file = file / ENCODER_NAME if file.is_dir() else file
    return fill(encoder, read_state_dict(file), file)


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Read named tensors from `.safetensors` or from a PyTorch file, without unpickling objects.

    Raises:
        InputError: The file is missing, damaged, or holds more than tensors.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as reader:
                return {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118 - no mapping
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist. Give the file of the weights.") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}. Give the file of the weights.") from error
    except Exception as error:  # torch.load lets out whatever zip, pickle and tensor code raise
        raise InputError(
            f"{file} is not a readable file of weights ({file.stat().st_size} bytes): it is damaged or holds more than "
            "tensors. Copy it again, or save the state_dict alone."
        ) from error
    for wrapper in ("state_dict", "model"):  # torchreid's and timm's
        while isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not any(isinstance(value, torch.Tensor) for value in content.values()):
        raise InputError(f"{file} holds no state dict. Save one with torch.save(network.state_dict(), path).")
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the training state: tensors, numbers, strings, and lists and dicts of them."""
    # By way of memory: on a full disk torch fails with an error of its own, a file with one that names the reason.
    content = io.BytesIO()
    torch.save(dict(state), content)
    write_atomically(path, lambda partial: partial.write_bytes(content.getbuffer()))


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        InputError: The file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: there is no run to resume. Leave out --resume to start one.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # as in read_state_dict
        raise InputError(f"{path} is damaged: {_first_line(error)}. Start again in another folder.") from error
    assert isinstance(state, dict), path
    return state
