"""A gallery for another encoder: the pictures that it keeps are embedded anew."""

# N = pictures, D = embedding

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from reidge.edge import audit
from reidge.edge.crops import resize_crops
from reidge.edge.errors import InputError
from reidge.edge.records import DROP_EXEMPLAR, Statement

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from reidge.edge.backends import EdgeEncoder
    from reidge.edge.store import Store

BATCH = 64
SET_SIGHTING = "UPDATE sightings SET embedding = ?2 WHERE sighting_id = ?1"
SET_EXEMPLAR = "UPDATE exemplars SET embedding = ?2 WHERE exemplar_id = ?1"
SET_META = "UPDATE meta SET value = ?2 WHERE key = ?1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reembedded:
    """What became of a gallery."""

    exemplars: int
    """Embedded anew."""
    dropped: int
    """Exemplars without a picture, which nobody can be compared with any more."""
    sightings: int


def reembed(
    store: Store,
    encoder: EdgeEncoder,
    *,
    by: str,
    drop: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> Reembedded:
    """Make a gallery one of another encoder: all of it or nothing.

    Args:
        store: Open, of the encoder from before.
        encoder: Open, the new one.
        by: Who wants it, for the audit.
        drop: Drop exemplars of which no picture is kept; otherwise they are a reason to refuse.
        advance: Called with how many pictures were embedded, as it goes on.

    Raises:
        InputError: It is of this encoder already, or exemplars would be lost.
        ReidgeError: The file cannot be written.
    """
    bundle = encoder.bundle
    if store.read("SELECT value FROM meta WHERE key = 'encoder'") == [(bundle.encoder_hash,)]:
        raise InputError(f"{store.path} is of the encoder in {bundle.path} already.")
    images = store.images("1")
    sightings = {sighting_id: i for i, (sighting_id, _, _) in enumerate(images) if sighting_id is not None}
    own = {exemplar_id: i for i, (_, exemplar_id, _) in enumerate(images) if exemplar_id is not None}
    exemplars = store.read("SELECT exemplar_id, sighting_id FROM exemplars")
    sources = {number: own.get(number, sightings.get(sighting_id)) for number, sighting_id in exemplars}
    lost = [number for number, image in sources.items() if image is None]
    if lost and not drop:
        raise InputError(
            f"of {len(lost)} of {len(exemplars)} exemplars in {store.path} no picture is kept. Drop them with --drop, "
            "or start a second gallery in storage.gallery and keep this one for the bundle it was made with."
        )
    embeddings_ND = _embed([image for _, _, image in images], encoder, advance)
    rows = store.read("SELECT sighting_id FROM sightings")
    statements = [
        *(Statement(SET_SIGHTING, (i, embeddings_ND[sightings[i]] if i in sightings else None)) for (i,) in rows),
        *(Statement(SET_EXEMPLAR, (i, embeddings_ND[image])) for i, image in sources.items() if image is not None),
        *(Statement(DROP_EXEMPLAR, (i,)) for i in lost),
        Statement(SET_META, ("encoder", bundle.encoder_hash)),
        Statement(SET_META, ("embedding_dim", str(bundle.manifest.embedding_dim))),
        audit.note("reembed", actor=by, exemplars=len(exemplars) - len(lost), dropped=len(lost)),
    ]
    store.write(statements)
    store.flush_journal()
    return Reembedded(exemplars=len(exemplars) - len(lost), dropped=len(lost), sightings=len(sightings))


def _embed(images: list[bytes], encoder: EdgeEncoder, advance: Callable[[int], None]) -> NDArray[np.float32]:
    """Embeddings `(N, D)` of encoded pictures, a batch at a time."""
    spec = encoder.bundle.manifest.input
    found_ND = np.empty((len(images), encoder.bundle.manifest.embedding_dim), dtype=np.float32)
    for start in range(0, len(images), BATCH):
        batch = [_decoded(image) for image in images[start : start + BATCH]]
        found_ND[start : start + len(batch)] = encoder.embed(resize_crops(batch, size=spec.size, method=spec.resize))
        advance(len(batch))
    return found_ND


def _decoded(image: bytes) -> NDArray[np.uint8]:
    decoded = cv2.imdecode(np.frombuffer(image, dtype=np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise InputError("a picture in the gallery is not readable. Restore the gallery from an archive.")
    return np.asarray(decoded, dtype=np.uint8)
