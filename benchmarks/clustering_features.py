"""Embeddings as an encoder makes them in mid-training, simulated: clusters that DBSCAN finds, most of them imperfect.

    x = norm(common e + c_identity + noise s_image z)

c and z are normal with a falling spectrum, as the principal components of real embeddings have; e is the direction
that all embeddings share; s differs from image to image, so that some lie well inside their cluster and some outside
all. Images come in random order. Everything is drawn a block at a time, each block by a generator of its own, so a
million of them need no more memory than the file they are written to.
"""

# N = images, D = embedding, R = images of a block, K = identities

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

BLOCK = 4096
"""Images drawn at a time."""
COPIES = 5
"""Of each image that is copied."""
HUB_LENGTH = 0.05
"""Of a hub's own part, where that of an identity is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What shapes the embeddings."""

    images: int
    """Without copies, isolated images and hubs."""
    dimensions: int = 2048
    members: int = 17
    """Images of an identity, on average; 17.2 in Market-1501."""
    noise: float = 1.05
    """Length of an image's own part, where that of its identity is 1."""
    uneven: float = 0.35
    """Standard deviation of the logarithm of s, by which one image is noisier than another."""
    decay: float = 0.5
    """The i-th principal component has a standard deviation proportional to i to minus this."""
    common: float = 0.0
    """Length of the part that all share."""
    copies: int = 0
    """More images, each the same as one of the first."""
    isolated: int = 0
    """More images that are like no other."""
    hubs: int = 0
    """More images near everything: the shared direction, with a little of their own."""
    seed: int = 0

    @property
    def total(self) -> int:
        """Images in all, N."""
        return self.images + self.copies + self.isolated + self.hubs

    @property
    def identities(self) -> int:
        """Of the images that have company."""
        return max(1, round(self.images / self.members))


def blocks(simulation: Simulation) -> Iterator[NDArray[np.float32]]:
    """Yield unit-length embeddings `(R, D)`, in order."""
    spectrum_D = np.arange(1, simulation.dimensions + 1, dtype=np.float32) ** -np.float32(simulation.decay)
    spectrum_D /= np.linalg.norm(spectrum_D)
    common_D = np.zeros(simulation.dimensions, dtype=np.float32)
    common_D[-1] = simulation.common  # the component that varies least
    centres_KD = _centres(simulation, spectrum_D)
    first_RD = np.empty((0, simulation.dimensions), dtype=np.float32)
    for start in range(0, simulation.images, BLOCK):
        count = min(BLOCK, simulation.images - start)
        rng = np.random.default_rng([simulation.seed, 1, start])
        identities_R = rng.integers(0, simulation.identities, count)
        scale_R = simulation.noise * np.exp(simulation.uneven * rng.standard_normal(count, dtype=np.float32))
        own_RD = rng.standard_normal((count, simulation.dimensions), dtype=np.float32)
        own_RD *= spectrum_D
        own_RD *= scale_R[:, None]
        own_RD += centres_KD[identities_R]
        own_RD += common_D
        own_RD /= np.linalg.norm(own_RD, axis=1, keepdims=True)
        if start == 0:
            first_RD = own_RD[: -(-simulation.copies // COPIES)].copy()
        yield own_RD
    yield from _extras(simulation, spectrum_D, common_D, first_RD)


def _centres(simulation: Simulation, spectrum_D: NDArray[np.float32]) -> NDArray[np.float16]:
    centres_KD = np.empty((simulation.identities, simulation.dimensions), dtype=np.float16)
    for start in range(0, simulation.identities, BLOCK):
        rng = np.random.default_rng([simulation.seed, 0, start])
        count = min(BLOCK, simulation.identities - start)
        centres_KD[start : start + count] = spectrum_D * rng.standard_normal((count, simulation.dimensions), np.float32)
    return centres_KD


def _extras(
    simulation: Simulation,
    spectrum_D: NDArray[np.float32],
    common_D: NDArray[np.float32],
    first_RD: NDArray[np.float32],
) -> Iterator[NDArray[np.float32]]:
    """Yield copies of the first images, then isolated ones, then hubs."""
    rng = np.random.default_rng([simulation.seed, 2])
    if simulation.copies:
        yield first_RD[np.arange(simulation.copies) % len(first_RD)]
    lone_RD = common_D + spectrum_D * rng.standard_normal((simulation.isolated, simulation.dimensions), np.float32)
    hubs_RD = common_D + HUB_LENGTH * spectrum_D * rng.standard_normal(
        (simulation.hubs, simulation.dimensions), np.float32
    )
    for extra_RD in (lone_RD, hubs_RD):
        if len(extra_RD):
            yield extra_RD / np.linalg.norm(extra_RD, axis=1, keepdims=True)


def ensure(simulation: Simulation, path: Path) -> None:
    """Write the embeddings as float16 `.npy`, unless they are there from an earlier run."""
    about = path.with_suffix(".json")
    wanted = json.dumps(asdict(simulation))
    if path.exists() and about.exists() and about.read_text() == wanted:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    about.unlink(missing_ok=True)
    shape = (simulation.total, simulation.dimensions)
    features_ND = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    start = 0
    for rows_RD in blocks(simulation):
        features_ND[start : start + len(rows_RD)] = rows_RD
        start += len(rows_RD)
    assert start == simulation.total
    features_ND.flush()
    about.write_text(wanted)
