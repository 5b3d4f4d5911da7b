from __future__ import annotations

import numpy as np

from reidge.train.histogram import SIZE, embed_histograms


def test_histograms_have_unit_length_and_tell_colours_apart_by_stripe() -> None:
    red_over_blue, blue_over_red, red_over_blue_shifted = np.zeros((3, *SIZE, 3), dtype=np.uint8)
    for image, top, bottom in ((red_over_blue, 2, 0), (blue_over_red, 0, 2), (red_over_blue_shifted, 2, 0)):
        image[:64, :, top] = image[64:, :, bottom] = 200
    red_over_blue_shifted[64:, :, 0] = 203  # within the same bin
    embeddings = embed_histograms(np.stack([red_over_blue, blue_over_red, red_over_blue_shifted]))
    assert embeddings.shape == (3, 288)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert embeddings[0] @ embeddings[2] > 0.999
    assert embeddings[0] @ embeddings[1] < 0.7
