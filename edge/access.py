"""A site's gallery from outside: read at any time, and changed by the site where one runs on it, else right here."""

from __future__ import annotations

import fcntl
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from reidge.edge import audit
from reidge.edge.backends import open_encoder
from reidge.edge.bundle import ONNX_NAMES, Bundle, read_manifest
from reidge.edge.detectors import DetectorConfig, open_detector
from reidge.edge.detectors.motion import MotionConfig
from reidge.edge.errors import InputError
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.portraits import read_portraits
from reidge.edge.postbox import NobodyAnswers, Postbox, thrown_away
from reidge.edge.quality import QualityConfig
from reidge.edge.service import least_similarities, least_similarity
from reidge.edge.settings import validate
from reidge.edge.site import EncoderConfig, IdentityConfig, StorageConfig, read_sections
from reidge.edge.store import IN_MEMORY, GalleryInUse, Label, NoGallery, Store, read_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reidge.edge.backends import EdgeEncoder
    from reidge.edge.bars import Bars
    from reidge.edge.detectors import Detector
    from reidge.edge.gallery import Candidate
    from reidge.edge.portraits import Portrait
    from reidge.edge.requests import Answer, Request

WAIT_SECONDS = 10.0
"""For other commands to let go of the gallery, one after the other."""
TRY_SECONDS = 3.0
"""The same where a site that runs cannot be asked instead."""
TRY_EVERY = 0.05


class GallerySite(BaseModel, frozen=True, extra="forbid"):
    """What a site file says that has to do with its gallery; cameras and outputs need not even be reachable."""

    bundle: Path
    detector: DetectorConfig = MotionConfig()
    quality: QualityConfig = QualityConfig()
    encoder: EncoderConfig = EncoderConfig()
    identity: IdentityConfig = IdentityConfig()
    storage: StorageConfig = StorageConfig()

    @property
    def path(self) -> Path:
        """The gallery's file."""
        return Path(self.storage.gallery)

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that belongs to it."""
        return tuple(self.path.with_name(f"{self.path.name}{end}") for end in ("", "-wal", "-shm", ".lock"))


def load_gallery_site(path: Path, overrides: Sequence[str] = ()) -> GallerySite:
    """Read of a site file what its gallery needs.

    Raises:
        InputError: The file cannot be read, says something wrong, or keeps no gallery.
    """
    values = read_sections(path, overrides, only=GallerySite.model_fields)
    site = validate(GallerySite, values, where=str(path))
    if site.storage.gallery == IN_MEMORY:
        raise InputError(f"{path}: storage.gallery is {IN_MEMORY}, which ends with each run. Set it to a file.")
    storage = site.storage.model_copy(update={"gallery": str(path.parent / site.storage.gallery)})
    detector = site.detector
    if detector.kind != "motion":
        detector = detector.model_copy(update={"path": path.parent / detector.path})
    return site.model_copy(update={"bundle": path.parent / site.bundle, "storage": storage, "detector": detector})


@contextmanager
def reading(site: GallerySite) -> Iterator[Store]:
    """Open the gallery's file to read, whether a site runs on it or not.

    Raises:
        InputError: There is none, it is damaged, or the secret is another one.
    """
    label = read_label(site.path)
    if not label.current:
        with owning(site, secret=site.storage.key):  # brings it up to date
            pass
    with _opened(site, label, secret=site.storage.key, shared=True) as store:
        yield store


@contextmanager
def owning(site: GallerySite, *, secret: str | None) -> Iterator[Store]:
    """Open the gallery's file for oneself.

    Raises:
        GalleryInUse: A site runs on it.
        InputError: There is none, it is damaged, or the secret is another one.
    """
    with _opened(site, read_label(site.path), secret=secret, shared=False) as store:
        yield store


@contextmanager
def making(site: GallerySite) -> Iterator[Store]:
    """Open the gallery's file for oneself, or make it, as one of the site's bundle.

    Raises:
        GalleryInUse: A site runs on it.
        InputError: It is damaged or of another encoder, or the secret is another one.
    """
    with _opened(site, _label_of_bundle(site), secret=site.storage.key, shared=False) as store:
        yield store


@contextmanager
def _opened(site: GallerySite, label: Label, *, secret: str | None, shared: bool) -> Iterator[Store]:
    deadline = time.monotonic() + TRY_SECONDS
    store = None
    while store is None:
        try:
            store = Store(
                site.path,
                encoder_hash=label.encoder_hash,
                embedding_dim=label.embedding_dim,
                secret=secret,
                shared=shared,
            )
        except GalleryInUse as error:
            if time.monotonic() > deadline:
                raise GalleryInUse(
                    f"another reidge holds the gallery {site.path}, a site that runs or another command; this cannot "
                    "be done meanwhile. Stop it, or wait for its end."
                ) from error
            time.sleep(TRY_EVERY)
    try:
        yield store
    finally:
        store.close()


def is_there(site: GallerySite) -> bool:
    """Whether there is a gallery.

    Raises:
        InputError: What is there is none.
        ReidgeError: It cannot be read at present.
    """
    try:
        read_label(site.path)
    except NoGallery:
        return False
    return True


def encoder_of(site: GallerySite) -> str:
    """The encoder of the gallery, or of the bundle where there is no gallery yet.

    Raises:
        InputError: What is there is no gallery, or no bundle.
        ReidgeError: It cannot be read at present.
    """
    return (read_label(site.path) if is_there(site) else _label_of_bundle(site)).encoder_hash


def _label_of_bundle(site: GallerySite) -> Label:
    manifest = read_manifest(site.bundle)
    encoder_hash = manifest.files[ONNX_NAMES["float"]].sha256
    return Label(
        encoder_hash=encoder_hash,
        embedding_dim=manifest.embedding_dim,
        encrypted=site.storage.key is not None,
        current=True,
    )


def is_running(site: GallerySite) -> bool:
    """Whether a site runs on the gallery, or anybody else writes to it at this moment."""
    lock = site.path.with_name(f"{site.path.name}.lock")
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def min_similarity_of(site: GallerySite) -> float:
    """The least similarity of one person, where no encoder needs to be open: the strictest of the bundle's.

    Raises:
        InputError: Neither the site nor the bundle says so.
    """
    manifest = read_manifest(site.bundle)
    found = [report.min_similarity for report in manifest.threshold.values() if report.min_similarity is not None]
    if site.identity.min_similarity is not None or not found:
        return least_similarity(site.identity, manifest, "float", path=site.bundle)
    return max(found)


@contextmanager
def searching(site: GallerySite, bundle: Bundle, bars: Bars) -> Iterator[Gallery]:
    """Open the gallery to look for people, whether a site runs on it or not.

    Raises:
        InputError: There is none, it is damaged, of another encoder, or the secret is another one.
    """
    with reading(site):  # which brings an old one up to date
        pass
    gallery = Gallery(
        site.path,
        encoder_hash=bundle.encoder_hash,
        embedding_dim=bundle.manifest.embedding_dim,
        config=_config(site, bars.min_similarity),
        bars=bars,
        secret=site.storage.key,
        shared=True,
    )
    with gallery:
        yield gallery


Verdict = Literal["yes", "maybe", "no"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What it takes to know people in pictures."""

    encoder: EdgeEncoder
    detector: Detector | None
    quality: QualityConfig
    bars: Bars
    """Least similarities of one person."""
    rare: float
    """Similarity that about one of a hundred pairs of different people reaches."""
    unlike: float
    """Similarity that one of twenty reaches: pictures of one person less alike than this are worth a look."""

    def verdict(self, candidate: Candidate, gallery: Gallery) -> Verdict:
        """Whether somebody of a gallery is the one: yes, as a site that runs would say; or maybe."""
        if gallery.knows(candidate):
            return "yes"
        return "maybe" if candidate.similarity >= self.rare else "no"

    def look(self, paths: Sequence[Path]) -> list[Portrait]:
        """Read and embed pictures of one person.

        Raises:
            InputError: A file is no image, or does not show one person.
        """
        return read_portraits(
            paths,
            encoder=self.encoder,
            quality=self.quality,
            min_similarity=self.unlike,
            detector=self.detector,
        )


@contextmanager
def seeing(site: GallerySite, *, whole: bool) -> Iterator[Sight]:
    """Open the site's encoder, and for whole pictures its detector.

    Raises:
        InputError: Bundle or detector are missing or damaged, or the detector finds nobody in a still picture.
    """
    if whole and site.detector.kind == "motion":
        raise InputError(
            "the site's detector finds what moves, and nobody moves in a picture. Give crops of the person."
        )
    bundle = Bundle.load(site.bundle)
    with ExitStack() as stack:
        encoder = stack.enter_context(
            open_encoder(bundle, site.encoder.backend, site.encoder.precision, site.encoder.threads)
        )
        detector = stack.enter_context(open_detector(site.detector)) if whole else None
        report = bundle.manifest.threshold.get(encoder.precision)
        bars = least_similarities(site.identity, bundle, encoder.precision)
        reached = {} if report is None else report.different_quantiles
        yield Sight(
            encoder=encoder,
            detector=detector,
            quality=site.quality,
            bars=bars,
            rare=min(reached.get("0.99", bars.min_similarity - 2 * bars.decay), bars.min_similarity),
            unlike=min(reached.get("0.95", bars.min_similarity - 4 * bars.decay), bars.min_similarity),
        )


def change(site: GallerySite, request: Request) -> Answer:
    """Have a request done: by the site that runs, or here, when no other command holds the gallery any more.

    Raises:
        InputError: It cannot be done.
        ReidgeError: Whoever holds the gallery does not answer, or the disk is in trouble.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return _change_here(site, request)
        except GalleryInUse:
            if time.monotonic() > deadline:
                raise
        try:
            with reading(site) as store, Postbox(store) as postbox:
                return postbox.ask(request, nobody=lambda: not is_running(site))
        except NobodyAnswers:
            if time.monotonic() > deadline:
                raise
        except NoGallery:  # another command is about to make it
            time.sleep(TRY_EVERY)


def _change_here(site: GallerySite, request: Request) -> Answer:
    label = read_label(site.path) if is_there(site) or not request.makes else _label_of_bundle(site)
    gallery = Gallery(
        site.path,
        encoder_hash=label.encoder_hash,
        embedding_dim=label.embedding_dim,
        config=_config(site, site.identity.min_similarity or 1.0),
        secret=site.storage.key,
    )
    with gallery:
        gallery.keep([thrown_away()])  # no site runs that could take them up
        answer = request.fulfil(gallery)
        if request.erases:
            gallery.scrub()
        elif not gallery.flush(10.0):
            gallery.scrub()  # says what is wrong with the disk
        return answer


def note(store: Store, action: str, *, subject: Sequence[int] = (), **detail: object) -> None:
    """Put on the audit's list what was only looked at or copied.

    Raises:
        ReidgeError: The file cannot be written; then nobody may look either.
    """
    with Postbox(store) as postbox:
        postbox.write([audit.note(action, actor=audit.current_user(), subject=subject, **detail)])


def _config(site: GallerySite, min_similarity: float) -> GalleryConfig:
    return GalleryConfig(
        min_similarity=min_similarity,
        min_margin=site.identity.min_margin,
        max_exemplars=site.identity.max_exemplars,
    )
