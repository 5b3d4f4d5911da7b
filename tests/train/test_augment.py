from __future__ import annotations

import numpy as np
import pytest
import torch

from reidge.train.augment import AugmentConfig, change_colours, draw_views, erase, flip, paint, shift
from reidge.train.encoders import build_encoder
from reidge.train.extract import normalise

SIZE = (16, 8)
OFF = {"flip_p": 0.0, "pad": 0, "jitter": 0.0, "erasing_p": 0.0}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def crops(number: int = 4) -> torch.Tensor:
    return torch.from_numpy(rng().integers(1, 256, (number, *SIZE, 3), dtype=np.uint8))


def test_nothing_switched_on_changes_nothing() -> None:
    encoder = build_encoder("small")
    views = paint(crops(), draw_views(4, AugmentConfig(**OFF), SIZE, rng()), encoder)
    torch.testing.assert_close(views, normalise(crops(), encoder))


def test_the_same_seed_gives_the_same_views_and_leaves_the_crops_alone() -> None:
    encoder, given = build_encoder("small"), crops()
    config = AugmentConfig(jitter=0.5)
    first, second = (paint(given, draw_views(4, config, SIZE, rng(5)), encoder) for _ in range(2))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(given, crops())


def test_a_part_of_the_views_is_painted_as_in_the_whole() -> None:
    encoder, given = build_encoder("small"), crops(6)
    views = draw_views(6, AugmentConfig(jitter=0.5, pad=2, erasing_p=1), SIZE, rng())
    rows = slice(2, 5)
    torch.testing.assert_close(paint(given[rows], views.part(rows), encoder), paint(given, views, encoder)[rows])


def test_flipping_mirrors_left_and_right() -> None:
    views = draw_views(4, AugmentConfig(flip_p=1), SIZE, rng())
    torch.testing.assert_close(flip(crops(), views), crops().flip(2))


def test_shifting_moves_by_at_most_the_padding_and_fills_with_black() -> None:
    given = crops(50)
    moves = set()
    shifted = shift(given, draw_views(50, AugmentConfig(pad=2), SIZE, rng()))
    for before, after in zip(given.numpy(), shifted.numpy(), strict=True):
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
    images = erase(torch.full((20, 3, 64, 32), -9.0), draw_views(20, config, (64, 32), rng()))
    erased = (images != -9).all(dim=1)
    share = erased.float().mean(dim=(1, 2))
    assert share.min() > 0.09
    assert share.max() < 0.22
    assert images[:, 0][erased].tolist() == pytest.approx([0.485] * int(erased.sum()))


def test_jitter_is_a_change_of_camera_not_of_place() -> None:
    flat = torch.full((6, 4, 4, 3), 128, dtype=torch.uint8)
    colours = draw_views(6, AugmentConfig(jitter=0.5), (4, 4), rng()).colours
    assert colours is not None
    views = change_colours(flat, colours)
    assert (views.amax(dim=(1, 2)) - views.amin(dim=(1, 2))).max() < 1e-3  # flat stays flat
    assert views[:, 0, 0].std(dim=0).min() > 5  # each view its own colour
    assert 0 <= views.min() <= views.max() <= 255


def test_erased_rectangles_have_the_published_aspects() -> None:
    config = AugmentConfig(erasing_p=1, erasing_area=(0.02, 0.02), erasing_aspect=0.25)
    rows, columns = draw_views(600, config, (64, 64), rng()).erased_B4[:, 2:].T
    # Height over width is uniform in 0.25 to 4: four fifths are upright. With a uniform logarithm half of them were.
    assert (rows > columns).mean() == pytest.approx(0.8, abs=0.06)
