"""A site that runs for weeks: everything is opened, the loop goes round, and what happens meanwhile is looked after."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from reidge.edge.backends import open_encoder
from reidge.edge.bars import Bars, bars_of
from reidge.edge.bundle import Bundle
from reidge.edge.desk import Desk
from reidge.edge.detectors import open_detector
from reidge.edge.errors import InputError, ReidgeError, reason_of
from reidge.edge.figures import RunSummary, publish, summarise
from reidge.edge.footage import count_frames
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.governor import Governor, LoadMeter, Ruling
from reidge.edge.log import change_of
from reidge.edge.metrics import Metrics
from reidge.edge.notify import ServiceManager
from reidge.edge.orders import Orders
from reidge.edge.outputs import Outputs
from reidge.edge.pipeline import Pipeline
from reidge.edge.progress import Progress
from reidge.edge.rates import Rates
from reidge.edge.store import IN_MEMORY
from reidge.edge.stream import Cameras
from reidge.edge.tracklog import TrackLog
from reidge.edge.watchdog import Watchdog
from reidge.edge.web import Web

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reidge.edge.backends import EdgeEncoder
    from reidge.edge.bundle import Manifest, Precision
    from reidge.edge.site import IdentityConfig, Site
    from reidge.edge.stream import CameraChanges

log = logging.getLogger(__name__)

LIVE_SETTINGS = ("cameras", "quality", "load")
"""Sections of the site file that are taken over while running."""
SICK_SECONDS = 5.0
"""In one stage, before the loop is called unhealthy; it comes round twice a second even when nothing is to be done."""
STATUS_SECONDS = 10.0
"""Between two status lines for the service manager."""
FLUSH_SECONDS = 0.8
"""For events to get out when the process ends in place of a loop that hangs."""


class Service:
    """The parts of a running site that act together between two moments of the loop."""

    def __init__(
        self,
        site: Site,
        *,
        cameras: Cameras,
        pipeline: Pipeline,
        metrics: Metrics,
        reread: Callable[[], Site] | None,
        desk: Desk | None = None,
    ) -> None:
        self.site = site
        self._cameras, self._pipeline, self._metrics, self._reread = cameras, pipeline, metrics, reread
        self._desk = desk
        self._manager = ServiceManager()
        self._governor, self._meter = Governor(site.load), LoadMeter(site.load.window)
        self._heard: set[str] = set()
        self._rates = Rates(cameras.set_rate)
        self._status_at = 0.0

    def begin(self) -> None:
        """Everything is open."""
        number = len(self.site.cameras)
        log.info("running with %d camera%s", number, "" if number == 1 else "s")
        self._manager.ready()

    def look_around(self, orders: Orders) -> tuple[str, ...]:
        """Do what is due between two moments; tells of which cameras the settings changed.

        What such a camera gave before must not be handled: new masks hide what the old ones left to see.
        """
        changed: tuple[str, ...] = ()
        self._manager.alive()
        self._hear()
        self._give_up()
        if self._desk is not None:
            self._desk.serve(self._pipeline.book.in_view, self._pipeline.changed_by_hand)
        if orders.reload.is_set():
            orders.reload.clear()
            changed = self._reload()
        if not self._cameras.in_step:
            self._govern(time.monotonic())
        self._tell_status(time.monotonic())
        return changed

    def end(self) -> None:
        """End all tracks, tell what the cameras said last, and ask everything that takes time to end, to end."""
        self._manager.stopping()
        self._hear()
        self._pipeline.finish()
        # Cameras and disk have their time side by side with the outputs, and not one after the other.
        self._cameras.leave()
        self._pipeline.book.gallery.leave()

    def ailing(self) -> list[str]:
        """What has not worked for a while."""
        failing = self._pipeline.failing().items()
        return [
            f"the {what} fails at everything for {seconds:.0f} s" for what, seconds in failing if seconds > SICK_SECONDS
        ]

    def missing(self) -> list[str]:
        """What is not there yet: cameras of which it is not known whether they work."""
        names = [camera.name for camera in self.site.cameras]
        return [f"camera {name} was not reached yet" for name in names if name not in self._heard]

    def _hear(self) -> None:
        """Take in which cameras came up or went down."""
        live = {camera.name for camera in self.site.cameras if camera.live}
        for state in self._cameras.states():
            self._heard.add(state.camid)
            self._pipeline.camera_changed(state)
            what = "is up" if state.up else f"is down: {state.reason}"
            # A recording that ends, or a camera that was removed, is down as it should be.
            level = logging.INFO if state.up or state.camid not in live else logging.WARNING
            log.log(level, "camera %s %s", state.camid, what, extra=change_of("camera", state.camid))

    def _give_up(self) -> None:
        """End a run whose detector or encoder fails at everything; a new start may find the device well again."""
        patience = self.site.watchdog.seconds
        for what, seconds in self._pipeline.failing().items():
            if patience is not None and seconds > patience:
                raise ReidgeError(
                    f"the {what} has failed at everything for {seconds:.0f} s. The log says why; start again."
                )

    def _govern(self, now: float) -> None:
        if not self._meter.due(now):
            return
        limits = {camera.name: camera.max_fps for camera in self.site.cameras}
        load = self._meter.read(
            now,
            busy=self._pipeline.busy,
            handled=sum(self._pipeline.frames.values()),
            counts=self._cameras.counts(),
            limits=limits,
        )
        ruling = None if load is None else self._governor.judge(load)
        if ruling is not None:
            self._obey(ruling)

    def _obey(self, ruling: Ruling) -> None:
        self._rates.spread(ruling.camids, ruling.level)
        for camid in ruling.camids:
            self._metrics.gauge("camera_rate", float("inf") if ruling.level is None else ruling.level, camid)
        if ruling.level is None:
            log.info("every camera gives all its frames again", extra=change_of("load"))
        else:
            slow = "; tracks suffer at less than 3" if ruling.level < 3 else ""
            log.warning(
                "too much to do: every camera gives %.1f frames a second at most%s",
                ruling.level,
                slow,
                extra=change_of("load"),
            )

    def _reload(self) -> tuple[str, ...]:
        """Take over what can change while running, and name the cameras that changed; a wrong file changes nothing."""
        if self._reread is None:
            return ()
        changed: tuple[str, ...] = ()
        self._manager.reloading()
        try:
            wanted = _read(self._reread)
            changes = self._cameras.apply(wanted.cameras)
        except (ReidgeError, OSError) as error:
            log.error("reload refused, the settings from before stay: %s", reason_of(error))
        else:
            changed = changes.changed
            self._take_over(wanted, changes)
        self._manager.ready()
        return changed

    def _take_over(self, wanted: Site, changes: CameraChanges) -> None:
        fixed = [name for name in type(wanted).model_fields if name not in LIVE_SETTINGS]
        waiting = [name for name in fixed if getattr(wanted, name) != getattr(self.site, name)]
        self.site = wanted.model_copy(update={name: getattr(self.site, name) for name in fixed})
        self._pipeline.reconfigure(self.site)
        for camid in changes.removed:
            self._metrics.forget(camid)
        if self._governor.level is not None:
            self._obey(Ruling(level=None, camids=tuple(camera.name for camera in self.site.cameras)))
        self._governor = Governor(self.site.load)  # other cameras, another load
        self._meter = LoadMeter(self.site.load.window)
        self._metrics.count("reloads")
        told = [f"{what} {', '.join(names)}" for what, names in _named(changes) if names] or ["no camera changed"]
        if waiting:
            told.append(f"what stands under {', '.join(waiting)} needs a restart")
        log.info("settings were read again: %s", "; ".join(told))

    def _tell_status(self, now: float) -> None:
        if now - self._status_at < STATUS_SECONDS:
            return
        self._status_at = now
        ages = self._cameras.ages().values()
        up = sum(age is not None and age < STATUS_SECONDS for age in ages)
        self._manager.status(f"{up} of {len(ages)} cameras give frames, {self._pipeline.identities} identities")
        self._metrics.gauge("identities", self._pipeline.identities)


class Condition:
    """How a run is, for whoever asks from outside, from its very beginning."""

    def __init__(self, watchdog: Watchdog) -> None:
        self.service: Service | None = None
        """None until everything is open."""
        self._watchdog = watchdog

    def health(self) -> list[str]:
        """What is wrong with the process."""
        silent = self._watchdog.silent_seconds
        stuck = [f"the loop is in stage {self._watchdog.stage} for {silent:.0f} s"] if silent > SICK_SECONDS else []
        return stuck + ([] if self.service is None else self.service.ailing())

    def ready(self) -> list[str]:
        """What is not there yet."""
        return ["the site is being opened"] if self.service is None else self.service.missing()


def run_site(
    site: Site,
    *,
    seconds: float | None = None,
    orders: Orders | None = None,
    reread: Callable[[], Site] | None = None,
    progress: bool = True,
) -> RunSummary:
    """Run a site until its cameras end, `seconds` have passed or it is told to stop; then end all tracks.

    Args:
        site: What to run.
        seconds: Wall time to run at most; live streams never end by themselves.
        orders: Given by signals or by another thread. With them comes the watchdog, which ends the process when the
            loop hangs or does not stop in time.
        reread: Reads the site file again, for `orders.reload`.
        progress: Whether to say how far it is.

    Raises:
        InputError: Bundle, footage, detector or gallery are missing, damaged or do not fit each other.
        ReidgeError: No camera gave a single frame, and nobody asked to stop.
    """
    with ExitStack() as stack:
        watchdog = Watchdog(site.watchdog, (orders or Orders()).stop)
        if orders is not None:
            stack.enter_context(watchdog)
        orders = orders or Orders()
        metrics, condition = Metrics(), Condition(watchdog)
        if site.web is not None:
            stack.enter_context(Web(site.web, metrics, health=condition.health, ready=condition.ready))
        cameras = Cameras(site.cameras)
        live = all(camera.live for camera in site.cameras)
        if live:  # they connect while the networks are loaded
            stack.enter_context(cameras)
        pipeline, outputs = open_pipeline(site, stack, metrics, watchdog)
        desk = open_desk(site, stack, pipeline.book.gallery, ages=live)
        condition.service = service = Service(
            site, cameras=cameras, pipeline=pipeline, metrics=metrics, reread=reread, desk=desk
        )
        publish(metrics, cameras, pipeline, watchdog)
        bar = stack.enter_context(Progress("run", total=_total_frames(site), unit="frames")) if progress else None
        if not live:  # a recording begins when somebody looks
            stack.enter_context(cameras)
        service.begin()
        began = time.monotonic()
        try:
            for frames in cameras.moments(orders.stop):
                changed = service.look_around(orders)
                pipeline.handle([frame for frame in frames if frame.camid not in changed])
                if bar is not None:
                    bar.advance(len(frames), note=f"{pipeline.identities} identities")
                if seconds is not None and time.monotonic() - began >= seconds:
                    break
                watchdog.beat("wait")
        finally:  # also where it fails, whoever is in view has to be told as gone
            watchdog.beat("end")
            service.end()
        if not pipeline.frames and not orders.stop.is_set():
            raise ReidgeError("no camera gave a single frame. See the camera.down events for the reasons.")
        summary = summarise(pipeline, cameras, time.monotonic() - began)
    return replace(summary, events_lost=outputs.left)


def open_pipeline(site: Site, stack: ExitStack, metrics: Metrics, watchdog: Watchdog) -> tuple[Pipeline, Outputs]:
    """Open everything between cameras and the world; `stack` closes it."""
    bundle = Bundle.load(site.bundle)
    detector = stack.enter_context(open_detector(site.detector, at_once=len(site.cameras)))
    encoder = stack.enter_context(
        open_encoder(bundle, site.encoder.backend, site.encoder.precision, site.encoder.threads)
    )
    gallery = stack.enter_context(open_gallery(site, bundle, encoder))
    outputs = stack.enter_context(Outputs(site.outputs, metrics=metrics))
    tracks = stack.enter_context(TrackLog(site.outputs.tracks, [camera.name for camera in site.cameras]))
    pipeline = Pipeline(
        site,
        detector=detector,
        encoder=encoder,
        gallery=gallery,
        sink=outputs,
        tracks=tracks,
        metrics=metrics,
        beat=watchdog.beat,
    )
    watchdog.last_words = lambda: last_words(pipeline, outputs)
    return pipeline, outputs


def open_desk(site: Site, stack: ExitStack, gallery: Gallery, *, ages: bool) -> Desk | None:
    """Begin to take requests for the gallery, and to forget who is too old; None for a gallery without a file."""
    if site.storage.gallery == IN_MEMORY:
        return None
    return stack.enter_context(Desk(gallery, site.storage, ages=ages))


def last_words(pipeline: Pipeline, outputs: Outputs) -> None:
    """What is still done by another thread when the loop hangs and the process must end."""
    pipeline.abandon()
    outputs.flush(FLUSH_SECONDS)


def least_similarity(identity: IdentityConfig, manifest: Manifest, precision: Precision, *, path: Path) -> float:
    """From which similarity on two tracks are one person, by the site or by the bundle at `path`.

    Raises:
        InputError: Neither says so.
    """
    report = manifest.threshold.get(precision)
    calibrated = None if report is None else report.min_similarity
    found = calibrated if identity.min_similarity is None else identity.min_similarity
    if found is None:
        raise InputError(
            f"{path} has no calibrated match threshold. Set identity.min_similarity in the site file "
            "(0.7 is a start) or export the bundle with crops of people seen together."
        )
    return found


def least_similarities(identity: IdentityConfig, bundle: Bundle, precision: Precision) -> Bars:
    """The same, as it rises with the number of people known.

    Raises:
        InputError: Neither says so.
    """
    return bars_of(
        bundle.manifest.threshold.get(precision),
        min_similarity=least_similarity(identity, bundle.manifest, precision, path=bundle.path),
        fixed=identity.min_similarity is not None,
        stranger_rate=identity.stranger_rate,
    )


def open_gallery(site: Site, bundle: Bundle, encoder: EdgeEncoder) -> Gallery:
    """Open the site's gallery with the threshold of the site or of the bundle.

    Raises:
        InputError: Neither says from which similarity on two tracks are one person.
    """
    bars = least_similarities(site.identity, bundle, encoder.precision)
    config = GalleryConfig(
        min_similarity=bars.min_similarity,
        min_margin=site.identity.min_margin,
        max_exemplars=site.identity.max_exemplars,
    )
    return Gallery(
        site.storage.gallery,
        encoder_hash=bundle.encoder_hash,
        embedding_dim=bundle.manifest.embedding_dim,
        config=config,
        bars=bars,
        secret=site.storage.key,
    )


def _read(reread: Callable[[], Site]) -> Site:
    """Read the site file again; whatever it may hold is no reason to end what works.

    Raises:
        ReidgeError: It cannot be read, for reasons that nobody thought of too.
    """
    try:
        return reread()
    except ReidgeError:
        raise
    except Exception as error:
        raise ReidgeError(f"the site file cannot be read ({type(error).__name__}: {error}). Correct it.") from error


def _named(changes: CameraChanges) -> list[tuple[str, tuple[str, ...]]]:
    return [("added", changes.added), ("removed", changes.removed), ("changed", changes.changed)]


def _total_frames(site: Site) -> int | None:
    counts = [None if camera.live else count_frames(camera.source, camera.span) for camera in site.cameras]
    return None if None in counts else sum(count for count in counts if count is not None)
