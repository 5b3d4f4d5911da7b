from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from reidge.edge.backends import open_encoder
from reidge.edge.bundle import Bundle
from reidge.edge.detectors import open_detector
from reidge.edge.detectors.boxes import BoxesConfig
from reidge.edge.errors import InputError
from reidge.edge.portraits import Portrait, mean_embedding, read_portraits
from reidge.edge.quality import QualityConfig

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.edge.conftest import WriteDetector

RED, BLUE = (30, 30, 220), (220, 30, 30)


def write_crop(path: Path, colour: tuple[int, int, int], *, height: int = 96, blur: int = 0) -> Path:
    image_HW3 = np.full((height, height // 2, 3), colour, dtype=np.float64)
    image_HW3 += np.random.default_rng(height).normal(0, 20, image_HW3.shape)
    image_HW3 = np.clip(image_HW3, 0, 255)
    cv2.imwrite(str(path), cv2.blur(image_HW3, (blur, blur)) if blur else image_HW3)
    return path


def look(bundle: Path, paths: list[Path], *, detector: Path | None = None) -> list[Portrait]:
    with ExitStack() as stack:
        encoder = stack.enter_context(open_encoder(Bundle.load(bundle), "onnxruntime", threads=1))
        found = None if detector is None else stack.enter_context(open_detector(BoxesConfig(path=detector)))
        return read_portraits(paths, encoder=encoder, quality=QualityConfig(), min_similarity=0.9, detector=found)


def test_a_picture_of_somebody_else_is_told_and_the_others_are_not_blamed(tmp_path: Path, tiny_bundle: Path) -> None:
    paths = [write_crop(tmp_path / f"{i}.png", RED, height=96 + i) for i in range(3)]
    paths.append(write_crop(tmp_path / "other.png", BLUE))
    portraits = look(tiny_bundle, paths)
    assert [bool(portrait.flaws) for portrait in portraits] == [False, False, False, True]
    assert "is it the same person?" in portraits[3].flaws[0]


def test_one_picture_alone_has_nobody_to_be_like(tmp_path: Path, tiny_bundle: Path) -> None:
    (portrait,) = look(tiny_bundle, [write_crop(tmp_path / "a.png", RED)])
    assert portrait.likeness is None
    assert portrait.flaws == ()


def test_of_three_pictures_the_blurred_one_is_told(tmp_path: Path, tiny_bundle: Path) -> None:
    paths = [write_crop(tmp_path / f"{i}.png", RED, height=96 + i, blur=15 * (i == 1)) for i in range(3)]
    assert [portrait.flaws for portrait in look(tiny_bundle, paths)] == [(), ("much less sharp than the others",), ()]


def test_what_all_pictures_look_like_is_their_mean_and_a_larger_one_weighs_more(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    small, large = look(
        tiny_bundle, [write_crop(tmp_path / "a.png", RED, height=16), write_crop(tmp_path / "b.png", BLUE)]
    )
    assert (small.quality, large.quality) == (0.5, 1.0)  # the encoder takes 32 pixels
    mean_D = mean_embedding([small, large])
    assert np.linalg.norm(mean_D) == pytest.approx(1.0, abs=1e-5)
    assert mean_D @ large.embedding_D > mean_D @ small.embedding_D


BOX = np.array([[8.0, 8.0, 24.0, 56.0]])


@pytest.mark.parametrize(
    ("boxes", "scores", "found"),
    [(BOX, [0.9], None), (BOX, [0.2], "nobody"), (np.vstack([BOX, BOX + 30]), [0.9, 0.8], "2 people")],
)
def test_the_one_person_of_a_whole_picture_is_cut_out(
    tmp_path: Path, tiny_bundle: Path, write_detector: WriteDetector,
    boxes: NDArray[np.float64], scores: list[float], found: str | None,
) -> None:  # fmt: skip
    detector = write_detector(tmp_path / "d.onnx", {"boxes": boxes, "scores": np.array(scores)})
    cv2.imwrite(str(tmp_path / "whole.png"), np.full((64, 64, 3), 128, dtype=np.uint8))
    if found is None:
        (portrait,) = look(tiny_bundle, [tmp_path / "whole.png"], detector=detector)
        assert portrait.crop_HW3.shape[:2] == (52, 20)  # the box, and 3 % of its height on every side
        assert portrait.flaws == ()
    else:
        with pytest.raises(InputError, match=f"shows {found}"):
            look(tiny_bundle, [tmp_path / "whole.png"], detector=detector)
