"""How the encoder sees a site at one time: embeddings of some of its crops, and the activations that leave their range.

The export takes one of the crops it calibrates on and keeps it in the bundle; `reidge drift` takes another one later,
in the same way, so that the two differ only by what has changed at the site.
"""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

import random
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from reidge.calibration.pairs import group_by_tracklet
from reidge.calibration.ranges import run_observed
from reidge.calibration.select import take_turns
from reidge.edge.bundle import BundleError
from reidge.edge.crops import read_image, resize_crops
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.edge.crops import CropFolder, CropRecord, ResizeMethod

CALIBRATION_NAME = "calibration.npz"
SNAPSHOT_SIZE = 256
"""Most crops."""
BATCH = 8
"""Crops whose activations are in memory at once."""
AGAIN = "Export the bundle again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What `take_snapshot` saw."""

    embeddings_ND: NDArray[np.float32]
    """Unit length, by the float graph."""
    tracklets_N: NDArray[np.int64]
    """The tracklet of each crop, by number."""
    camids_N: NDArray[np.str_]
    ranges: Mapping[str, float]
    """Largest magnitude that INT8 represents, of each activation it has."""
    saturation: Mapping[str, float]
    """Share of each activation's values that are beyond its range."""


def take_snapshot(
    graph: Path,
    folder: CropFolder,
    ranges: Mapping[str, float],
    *,
    size: tuple[int, int],
    resize: ResizeMethod,
    seed: int = 0,
    threads: int | None = None,
) -> Snapshot:
    """Look at up to `SNAPSHOT_SIZE` crops, drawn by camera and time and not for their looks.

    Calibration crops would not do: they are chosen to differ from each other, which the site's crops are not.

    Args:
        graph: The float graph of a bundle. It runs in ONNX Runtime on the processor, which computes the same anywhere.
        folder: Crops of the site at this time, all readable.
        ranges: Of the activations in INT8; may be empty.
        size: Height and width of the encoder's input.
        resize: How crops are brought to it.
        seed: Of the draw.
        threads: Processor threads; None takes all cores.

    Raises:
        InputError: A crop is unreadable, or an embedding is not finite.
    """
    model = onnx.load(graph)
    records = [folder.records[index] for index in draw(folder.records, seed)]
    (output,) = (value.name for value in model.graph.output)
    batches = read_batches(folder, records, size=size, resize=resize)
    parts: list[NDArray[np.float32]] = []
    beyond = dict.fromkeys(ranges, 0)
    seen = dict.fromkeys(ranges, 0)
    for values in run_observed(model, [output, *ranges], batches, threads=threads):
        parts.append(values[output])
        for name, largest in ranges.items():
            beyond[name] += int(np.count_nonzero(np.abs(values[name]) > largest))
            seen[name] += values[name].size
    embeddings_ND = np.concatenate(parts)
    if not np.isfinite(embeddings_ND).all():
        raise InputError(f"{graph} gives embeddings that are not finite on these crops. Export the bundle again.")
    names = {name: at for at, name in enumerate(dict.fromkeys(record.tracklet for record in records))}
    return Snapshot(
        embeddings_ND=embeddings_ND,
        tracklets_N=np.array([names[record.tracklet] for record in records], dtype=np.int64),
        camids_N=np.array([record.camid for record in records], dtype=np.str_),
        ranges=dict(ranges),
        saturation={name: beyond[name] / max(seen[name], 1) for name in ranges},
    )


def draw(records: Sequence[CropRecord], seed: int) -> list[int]:
    """Indices of the crops to look at: cameras, parts of their time, and tracklets take turns."""
    rng = random.Random(seed)
    tracklets = group_by_tracklet(records)
    rng.shuffle(tracklets)
    return take_turns(records, tracklets, SNAPSHOT_SIZE, rng)


def read_batches(
    folder: CropFolder,
    records: Sequence[CropRecord],
    *,
    size: tuple[int, int],
    resize: ResizeMethod,
    batch_size: int = BATCH,
) -> Iterator[NDArray[np.uint8]]:
    """Crops at the encoder's input size, a few at a time."""
    for start in range(0, len(records), batch_size):
        images = (read_image(folder.root / record.path) for record in records[start : start + batch_size])
        yield resize_crops(images, size=size, method=resize)


def describe_calibration(
    path: Path,
    graph: Path,
    folder: CropFolder,
    ranges: Mapping[str, float],
    *,
    size: tuple[int, int],
    resize: ResizeMethod,
    weights_sha256: str,
    seed: int = 0,
    threads: int | None = None,
) -> None:
    """Take a snapshot of the crops that a bundle is calibrated on and write it into the bundle.

    Args:
        path: The file to write: `CALIBRATION_NAME` in the bundle.
        graph: See `take_snapshot`, as all that is not named here.
        folder: The crop folder that calibration crops were drawn from.
        ranges: Of the activations in INT8.
        size: Height and width of the encoder's input.
        resize: How crops are brought to it.
        weights_sha256: Fingerprint of the encoder's weights, as in the manifest; other weights refuse the file.
        seed: Of the draw.
        threads: Processor threads; None takes all cores.
    """
    snapshot = take_snapshot(graph, folder, ranges, size=size, resize=resize, seed=seed, threads=threads)
    write_snapshot(path, snapshot, weights_sha256=weights_sha256)


def write_snapshot(path: Path, snapshot: Snapshot, *, weights_sha256: str) -> None:
    """Write a snapshot and the fingerprint of the weights it was taken with."""
    names = sorted(snapshot.ranges)
    np.savez(
        path,
        weights_sha256=np.array(weights_sha256),
        embeddings=snapshot.embeddings_ND,
        tracklets=snapshot.tracklets_N,
        camids=snapshot.camids_N,
        activations=np.array(names, dtype=np.str_),
        ranges=np.array([snapshot.ranges[name] for name in names], dtype=np.float64),
        saturation=np.array([snapshot.saturation[name] for name in names], dtype=np.float64),
    )


def read_snapshot(path: Path, *, weights_sha256: str) -> Snapshot:
    """Read what `write_snapshot` wrote.

    Raises:
        BundleError: The file is missing, is no such archive, or was made with other weights.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            made_with = str(archive["weights_sha256"])
            names = [str(name) for name in archive["activations"]]
            snapshot = Snapshot(
                embeddings_ND=archive["embeddings"],
                tracklets_N=archive["tracklets"],
                camids_N=archive["camids"],
                ranges=dict(zip(names, archive["ranges"].tolist(), strict=True)),
                saturation=dict(zip(names, archive["saturation"].tolist(), strict=True)),
            )
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing: the bundle does not say what it was calibrated on. {AGAIN}") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} does not describe a calibration. {AGAIN}") from error
    if made_with != weights_sha256:
        raise BundleError(
            f"{path} was made with other weights ({made_with[:12]}...) than the bundle's ({weights_sha256[:12]}...): "
            f"its calibration is stale. {AGAIN}"
        )
    return snapshot
