"""Cosine similarities of given pairs of images, wherever their embeddings are."""

# N = images, D = embedding, P = pairs, R = rows of pairs

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from llvmlite import binding, ir
from numba import njit, types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

PAIRS_AT_ONCE = 1 << 14
"""Pairs that a thread takes at a time; on a GPU two embeddings each are copied."""
HALF_IN_HARDWARE = binding.get_host_cpu_features().get("f16c", False) or binding.get_process_triple().startswith(
    "aarch"
)
"""Whether the processor reads float16; else its bits are taken apart, at half the speed."""


def pair_similarities(
    features_ND: Tensor, images_R: NDArray[np.integer[Any]], starts: NDArray[np.int64], others_P: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Compute the similarity of an image to some others, for many images.

    On a CPU nothing is copied. Rows that follow each other should share images, which are then still in its caches.

    Args:
        features_ND: Unit length, float32 or float16, on any device or in a file.
        images_R: The image of each row.
        starts: `(R + 1,)`: row r is compared with `others_P[starts[r] : starts[r + 1]]`.
        others_P: The other images.

    Returns:
        `(P,)`.
    """
    similarities_P = np.empty(len(others_P), dtype=np.float32)

    def on_cpu(first: int, last: int) -> None:
        part = (images_R[first:last], starts[first : last + 1], others_P, similarities_P)
        if features_ND.dtype == torch.float16:
            _half_dots(features_ND.numpy().view(np.uint16), *part)
        else:
            _dots(features_ND.numpy(), *part)

    def on_device(first: int, last: int) -> None:
        pairs = slice(starts[first], starts[last])
        counts_R = torch.from_numpy(np.diff(starts[first : last + 1]))
        own_P = torch.from_numpy(images_R[first:last]).repeat_interleave(counts_R).to(features_ND.device)
        other_P = torch.from_numpy(others_P[pairs]).to(features_ND.device)
        x_PD, y_PD = features_ND[own_P].float(), features_ND[other_P].float()
        similarities_P[pairs] = (x_PD * y_PD).sum(dim=1).cpu().numpy()

    edges = _cut(starts, PAIRS_AT_ONCE)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # the compiled loops let go of the GIL
        list(threads.map(on_cpu if features_ND.device.type == "cpu" else on_device, edges[:-1], edges[1:]))
    return similarities_P


def _cut(starts: NDArray[np.int64], pairs: int) -> list[int]:
    """Cut the rows into blocks of about so many pairs."""
    wanted = np.arange(0, starts[-1], pairs)
    return [*np.unique(np.searchsorted(starts, wanted, side="right") - 1).tolist(), len(starts) - 1]


@intrinsic
def _from_half(typing_context, bits):  # type: ignore[no-untyped-def]
    """Read the bits of a finite float16; numba itself cannot."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        single, word = ir.FloatType(), ir.IntType(32)
        if HALF_IN_HARDWARE:
            return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), single)
        wide = builder.zext(arguments[0], word)
        magnitude = builder.shl(builder.and_(wide, word(0x7FFF)), word(13))
        sign = builder.shl(builder.and_(wide, word(0x8000)), word(16))
        # The exponent of a float32 counts from 127, that of a float16 from 15.
        return builder.fmul(builder.bitcast(builder.or_(magnitude, sign), single), single(2.0**112))

    return types.float32(types.uint16), generate


@njit(nogil=True, fastmath={"reassoc", "contract"})  # sums in any order, the same each time: many numbers at once
def _dots(features, images, starts, others, similarities):  # type: ignore[no-untyped-def]
    for row in range(len(images)):
        own = features[images[row]]
        for pair in range(starts[row], starts[row + 1]):
            other = features[others[pair]]
            total = np.float32(0)
            for d in range(len(own)):
                total += own[d] * other[d]
            similarities[pair] = total


@njit(nogil=True, fastmath={"reassoc", "contract"})
def _half_dots(bits, images, starts, others, similarities):  # type: ignore[no-untyped-def]
    own = np.empty(bits.shape[1], dtype=np.float32)
    for row in range(len(images)):
        for d in range(len(own)):
            own[d] = _from_half(bits[images[row], d])  # type: ignore[call-arg]
        for pair in range(starts[row], starts[row + 1]):
            other = bits[others[pair]]
            total = np.float32(0)
            for d in range(len(own)):
                total += own[d] * _from_half(other[d])  # type: ignore[call-arg]
            similarities[pair] = total
