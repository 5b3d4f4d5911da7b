from __future__ import annotations

import numpy as np
import pytest
import torch

from reidge.train.augment import AugmentConfig, augment, erase, flip, jitter, shift
from reidge.train.encoders import build_encoder
from reidge.train.extract import normalise

OFF = {"flip_p": 0.0, "pad": 0, "jitter": 0.0, "erasing_p": 0.0}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def crops(number: int = 4) -> np.ndarray:
    return rng().integers(1, 256, (number, 16, 8, 3), dtype=np.uint8)


def test_nothing_switched_on_changes_nothing() -> None:
    encoder = build_encoder("small")
    views = augment(crops(), AugmentConfig(**OFF), encoder, rng())
    torch.testing.assert_close(views, normalise(torch.from_numpy(crops()), encoder))


def test_the_same_seed_gives_the_same_views_and_leaves_the_crops_alone() -> None:
    encoder, given = build_encoder("small"), crops()
    config = AugmentConfig(jitter=0.5)
    torch.testing.assert_close(augment(given, config, encoder, rng(5)), augment(given, config, encoder, rng(5)))
    np.testing.assert_array_equal(given, crops())


def test_flipping_mirrors_left_and_right() -> None:
    np.testing.assert_array_equal(flip(crops(), AugmentConfig(flip_p=1), rng()), crops()[:, :, ::-1])


def test_shifting_moves_by_at_most_the_padding_and_fills_with_black() -> None:
    given = crops(50)
    moves = set()
    for before, after in zip(given, shift(given, AugmentConfig(pad=2), rng()), strict=True):
        padded = np.pad(before, ((2, 2), (2, 2), (0, 0)))
        moves |= {
            (top, left)
            for top in range(5)
            for left in range(5)
            if np.array_equal(padded[top : top + 16, left : left + 8], after)
        }
    assert len(moves) > 15  # of 25


def test_erasing_covers_the_configured_share_with_the_mean_after_normalising() -> None:
    config = AugmentConfig(erasing_p=1, erasing_area=(0.1, 0.2))
    images = erase(torch.full((20, 3, 64, 32), -9.0), config, rng())
    erased = (images != -9).all(dim=1)
    share = erased.float().mean(dim=(1, 2))
    assert share.min() > 0.09
    assert share.max() < 0.22
    assert images[:, 0][erased].tolist() == pytest.approx([0.485] * int(erased.sum()))


def test_jitter_is_a_change_of_camera_not_of_place() -> None:
    flat = torch.full((6, 4, 4, 3), 128, dtype=torch.uint8)
    views = jitter(flat, 0.5, rng())
    assert (views.amax(dim=(1, 2)) - views.amin(dim=(1, 2))).max() < 1e-3  # flat stays flat
    assert views[:, 0, 0].std(dim=0).min() > 5  # each view its own colour
    assert 0 <= views.min() <= views.max() <= 255


def test_erased_rectangles_have_the_published_aspects() -> None:
    config = AugmentConfig(erasing_p=1, erasing_area=(0.02, 0.02), erasing_aspect=0.25)
    images = erase(torch.full((600, 3, 64, 64), -9.0), config, rng())
    erased = (images != -9).all(dim=1)
    rows, columns = erased.any(dim=2).sum(dim=1), erased.any(dim=1).sum(dim=1)
    # Height over width is uniform in 0.25 to 4: four fifths are upright. With a uniform logarithm half of them were.
    assert (rows > columns).float().mean() == pytest.approx(0.8, abs=0.06)
