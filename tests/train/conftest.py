"""Crops of drawn people, small enough to train on in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from reidge.edge.crops import CropRecord, CropWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SIZE = (64, 32)
CAMERAS = 2


@pytest.fixture(autouse=True, scope="module")  # before the fixtures of a module: sums differ with the threads
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw_person(pid: int, camera: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a person of two colours before a background of the camera."""
    colours = np.random.default_rng(pid).integers(20, 235, (3, 3))
    image = np.full((*SIZE, 3), 60 + 90 * camera, dtype=np.uint8)
    left, right = rng.integers(6, 10), rng.integers(22, 26)
    for top, bottom, colour in ((6, 16, colours[2]), (16, 38, colours[0]), (38, 62, colours[1])):
        cv2.rectangle(image, (int(left), top), (int(right), bottom), [int(c) for c in colour], -1)
    noisy = image * (0.9 + 0.2 * camera) + rng.normal(0, 6, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def write_crops(root: Path, *, people: int = 8, crops: int = 4) -> Path:
    """Write a crop folder: each person one tracklet in each of two cameras."""
    rng = np.random.default_rng(0)
    with CropWriter(root) as writer:
        for pid in range(people):
            for camera in range(CAMERAS):
                for i in range(crops):
                    name = f"cam{camera}/{pid:03d}_{i}.jpg"
                    record = CropRecord(
                        path=name, camid=f"cam{camera}", tracklet=f"cam{camera}/{pid}", captured_at=float(i),
                        x1=0, y1=0, x2=SIZE[1], y2=SIZE[0], score=1.0, sharpness=1.0,
                    )  # fmt: skip
                    writer.add(draw_person(pid, camera, rng), record)
    return root


def write_split(root: Path, *, people: int = 6, cameras: int = CAMERAS) -> Path:
    """Write a labelled split in Market-1501's layout: one query and two gallery images of a person and camera."""
    rng = np.random.default_rng(1)
    for folder, count in (("query", 1), ("bounding_box_test", 2)):
        (root / folder).mkdir(parents=True)
        for pid in range(1, people + 1):
            for camera in range(cameras):
                for i in range(count):
                    name = f"{pid:04d}_c{camera + 1}s1_{i:06d}_00.jpg"
                    cv2.imwrite(str(root / folder / name), draw_person(pid + 100, camera, rng))
    return root


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crop folder of 8 people in 2 cameras, 64 crops. Read only."""
    return write_crops(tmp_path_factory.mktemp("data") / "crops")


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled split of 6 other people. Read only."""
    return write_split(tmp_path_factory.mktemp("data") / "split")
