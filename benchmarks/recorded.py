"""A site recorded once, so that the decisions about identities can be made again in seconds.

A recording holds what the real tracker, quality gate and encoder gave: the boxes of every track, every picture that was
embedded, and how many boxes of each track show whom in truth. A replay hands this to the real loop as if it happened
now, and the loop decides who is who.

    python benchmarks/recorded.py out/demo/site out/demo/bundle second.npz    # record the second half of a demo's site
    python benchmarks/recorded.py --replay second.npz out/demo/bundle identity.min_margin=0.05
"""

# B = boxes, E = ended tracks, P = pictures, D = embedding, A = pairs of a person and a track

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reidge.demo.score import FrameMatch, IdentityScore, match_frame, read_boxes, score_counts
from reidge.demo.site import read_mot, read_site_config
from reidge.edge.backends import open_encoder
from reidge.edge.bundle import Bundle
from reidge.edge.camera import CameraConfig
from reidge.edge.detection import Detections
from reidge.edge.errors import InputError
from reidge.edge.footage import read_footage
from reidge.edge.frame import Frame
from reidge.edge.metrics import Metrics
from reidge.edge.pipeline import Picture, Pipeline
from reidge.edge.service import open_gallery
from reidge.edge.settings import apply_overrides, validate
from reidge.edge.site import Site
from reidge.edge.tracker import TrackedBox
from reidge.edge.tracklog import TrackLog
from reidge.edge.view import Glance

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from reidge.demo.render import Truth
    from reidge.edge.backends import EdgeEncoder
    from reidge.edge.bundle import Precision
    from reidge.edge.detectors import Detector
    from reidge.edge.events import Event
    from reidge.edge.gallery import Gallery

TrackKey = tuple[str, int]
"""camid and track_id."""

BOX = np.dtype(
    [("camera", "i2"), ("frame", "i4"), ("time", "f8"), ("track_id", "i4"), ("first_seen", "f8"), ("corners", "f4", 4)]
)
ENDED = np.dtype([("camera", "i2"), ("frame", "i4"), ("time", "f8"), ("track_id", "i4")])
PICTURE = np.dtype([("camera", "i2"), ("frame", "i4"), ("time", "f8"), ("track_id", "i4"), ("weight", "f4")])
AGREEMENT = np.dtype([("pid", "i4"), ("camera", "i2"), ("track_id", "i4"), ("boxes", "i4")])
COUNTED = np.dtype([("camera", "i2"), ("track_id", "i4"), ("boxes", "i4")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What holds for a whole recording."""

    cameras: tuple[str, ...]
    encoder_hash: str
    precision: Precision
    true_boxes: int
    detected: int
    """True boxes that were found, whoever they were taken for."""
    pids: tuple[int, ...]
    """Everybody who was well visible at some time."""
    residents: tuple[int, ...] = ()
    """Those who come in the first half too."""
    half_at: float = 0.0
    """When the second half begins; seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What happened at a site; the tables are in order of time, `camera` is an index into `facts.cameras`."""

    facts: Facts
    boxes_B: NDArray[np.void]
    """Of confirmed tracks that were seen: camera, frame from 0, time, track_id, first_seen, corners."""
    ended_E: NDArray[np.void]
    pictures_P: NDArray[np.void]
    """That were embedded: camera, frame, time, track_id, weight."""
    embeddings_PD: NDArray[np.float32]
    """Unit length."""
    agreements_A: NDArray[np.void]
    """How many boxes of a track show a person: pid, camera, track_id, boxes."""
    counted_C: NDArray[np.void]
    """How many boxes of a track count, right or wrong: camera, track_id, boxes."""

    def save(self, path: Path) -> None:
        """Write one `.npz`."""
        tables = {name: getattr(self, name) for name in TABLES}
        np.savez(path, facts=np.array(json.dumps(asdict(self.facts))), **tables)

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            facts = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(str(archive["facts"])).items()}
            return cls(facts=Facts(**facts), **{name: archive[name] for name in TABLES})

    def key(self, row: np.void) -> TrackKey:
        """The track that a row of any table is about."""
        return self.facts.cameras[row["camera"]], int(row["track_id"])

    def score(self, identities: Mapping[TrackKey, Hashable | None], *, alone: bool = False) -> IdentityScore:
        """Hold an identity for every track against the truth.

        Args:
            identities: None, or none at all, for a track that is undecided.
            alone: Whether an undecided track counts as a person of its own. Else it says nothing: its boxes are missed,
                and where they show nobody they are not wrong either.
        """
        taken: dict[TrackKey, Hashable] = {key: own for key, own in identities.items() if own is not None}
        if alone:
            taken = {key: taken.get(key, key) for key in map(self.key, self.counted_C)}
        pairs: Counter[tuple[int, Hashable]] = Counter()
        for row in self.agreements_A:
            if (key := self.key(row)) in taken:
                pairs[int(row["pid"]), taken[key]] += int(row["boxes"])
        found = score_counts(
            pairs,
            true_boxes=self.facts.true_boxes,
            predicted_boxes=sum(int(row["boxes"]) for row in self.counted_C if self.key(row) in taken),
            detected=self.facts.detected,
            identities_true=len(self.facts.pids),
            identities_found=len({identity for identity in identities.values() if identity is not None}),
        )
        every_box = self.facts.true_boxes + int(self.counted_C["boxes"].sum())
        return replace(found, detection_f1=2 * self.facts.detected / max(every_box, 1))

    def people(self) -> dict[TrackKey, int]:
        """Whom each track shows in most of its boxes; tracks that show nobody are left out."""
        boxes: defaultdict[TrackKey, Counter[int]] = defaultdict(Counter)
        for row in self.agreements_A:
            boxes[self.key(row)][int(row["pid"])] += int(row["boxes"])
        return {key: counter.most_common(1)[0][0] for key, counter in boxes.items()}

    def means(self) -> dict[TrackKey, NDArray[np.float32]]:
        """Weighted mean embedding of every track that has pictures, unit length."""
        sums: dict[TrackKey, NDArray[np.float32]] = {}
        for row, embedding_D in zip(self.pictures_P, self.embeddings_PD, strict=True):
            key = self.key(row)
            sums[key] = sums.get(key, np.float32(0)) + row["weight"] * embedding_D
        return {key: np.asarray(sum_D / np.linalg.norm(sum_D), dtype=np.float32) for key, sum_D in sums.items()}


TIMED = ("boxes_B", "ended_E", "pictures_P")
ROWS = (*TIMED, "agreements_A", "counted_C")
TABLES = (*ROWS, "embeddings_PD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What the loop made of a recording."""

    score: IdentityScore
    identities: dict[TrackKey, int | None]
    """The last word about every track."""
    events: tuple[Event, ...]


class _Recorder(Pipeline):
    """Notes what the loop sees and embeds, and decides nothing."""

    def __init__(self, site: Site, **parts: Any) -> None:
        super().__init__(site, **parts)
        self.cameras = [camera.name for camera in site.cameras]
        self.boxes: list[tuple[Any, ...]] = []
        self.ended: list[tuple[Any, ...]] = []
        self.pictures: list[tuple[Any, ...]] = []
        self.embeddings_D: list[NDArray[np.float32]] = []
        self._now: dict[str, tuple[int, float]] = {}

    def _track(self, found: Iterable[tuple[Frame, Detections]]) -> list[Glance]:
        glances = super()._track(found)
        for glance in glances:
            camid, index = glance.frame.camid, glance.frame.index
            self._now[camid] = index, glance.at
            for box in glance.boxes:
                where = self.cameras.index(camid), index, glance.at, box.track_id
                self.boxes.append((*where, box.first_seen, box.box_4))
        return glances

    def _match(
        self, glances: Iterable[Glance], pictures: Iterable[Picture], embeddings_ND: NDArray[np.float32]
    ) -> None:
        for glance in glances:
            self._end(glance.frame.camid, glance.ended)
        for picture, embedding_D in zip(pictures, embeddings_ND, strict=True):
            camid = picture.sighting.camid
            where = self.cameras.index(camid), *self._now[camid], picture.sighting.track_id
            self.pictures.append((*where, picture.weight))
            self.embeddings_D.append(embedding_D)

    def _end(self, camid: str, track_ids: Iterable[int]) -> None:
        for track_id in track_ids:
            del self.book.live[camid, track_id]
            self.ended.append((self.cameras.index(camid), *self._now[camid], track_id))
            self._tracks.forget(camid, track_id)


class _Player(Pipeline):
    """The loop from the decisions on: what comes before them is read from a recording."""

    def __init__(self, recording: Recording, site: Site, **parts: Any) -> None:
        super().__init__(site, **parts)
        self._recording = recording
        self._rows = {name: _by_frame(getattr(recording, name)) for name in ("boxes_B", "ended_E", "pictures_P")}

    def moments(self) -> Iterator[list[Frame]]:
        """The frames in which something happened, those of one time together."""
        cameras = self._recording.facts.cameras
        times: defaultdict[float, dict[int, int]] = defaultdict(dict)
        for table in (self._recording.boxes_B, self._recording.ended_E, self._recording.pictures_P):
            for row in table:
                times[float(row["time"])][int(row["camera"])] = int(row["frame"])
        image = np.zeros((1, 1, 3), dtype=np.uint8)
        for at in sorted(times):
            yield [
                Frame(camid=cameras[camera], index=index, captured_at=at, decoded_at=0.0, image=image)
                for camera, index in sorted(times[at].items())
            ]

    def _detect(self, frames: Sequence[Frame]) -> list[tuple[Frame, Detections]]:
        nobody = Detections.from_arrays([], [])
        return [(frame, nobody) for frame in frames]

    def _track(self, found: Iterable[tuple[Frame, Detections]]) -> list[Glance]:
        glances = []
        for frame, _ in found:
            boxes = tuple(
                TrackedBox(
                    track_id=int(row["track_id"]), detection=0, box_4=row["corners"], score=1.0, hits=1,
                    first_seen=float(row["first_seen"]),
                )
                for row in self._recording.boxes_B[self._at("boxes_B", frame)]
            )  # fmt: skip
            ended = self._recording.ended_E[self._at("ended_E", frame)]["track_id"].tolist()
            covered_N = np.zeros(1, dtype=np.float32)
            glance = Glance(frame=frame, at=frame.captured_at, boxes=boxes, covered_N=covered_N, ended=tuple(ended))
            for box in boxes:
                self._see(glance, box)
            glances.append(glance)
        return glances

    def _choose(self, glances: Iterable[Glance]) -> list[Picture]:
        crop = np.zeros((1, 1, 3), dtype=np.uint8)
        self._chosen = [row for glance in glances for row in self._at("pictures_P", glance.frame)]
        return [
            Picture(sighting=self.book.live[self._recording.key(row)], crop=crop, weight=float(row["weight"]))
            for row in self._recording.pictures_P[self._chosen]
        ]

    def _embed(self, pictures: list[Picture]) -> tuple[list[Picture], NDArray[np.float32]]:
        for picture in pictures:
            picture.sighting.last_embedded = picture.sighting.last_seen
        self.embeddings += len(pictures)
        return pictures, self._recording.embeddings_PD[self._chosen]

    def _at(self, table: str, frame: Frame) -> list[int]:
        camera = self._recording.facts.cameras.index(frame.camid)
        return self._rows[table].get((camera, frame.captured_at), [])


class _Table(TrackLog):
    """Keeps the final table of identities in memory."""

    def __init__(self) -> None:
        super().__init__(Path(), ())
        self.identities: dict[TrackKey, int | None] = {}

    def write_identities(self, identities: Iterable[tuple[str, int, int | None]]) -> None:
        self.identities = {(camid, track_id): global_id for camid, track_id, global_id in identities}


class _Events(list["Event"]):
    """Takes events as an output would."""

    @property
    def written(self) -> int:
        return len(self)

    def write(self, event: Event) -> None:
        self.append(event)


def _by_frame(table: NDArray[np.void]) -> dict[tuple[int, float], list[int]]:
    rows: defaultdict[tuple[int, float], list[int]] = defaultdict(list)
    for number, (camera, at) in enumerate(zip(table["camera"].tolist(), table["time"].tolist(), strict=True)):
        rows[camera, at].append(number)
    return dict(rows)


def record(
    site: Site,
    moments: Iterable[list[Frame]],
    truths: Mapping[str, Sequence[Truth]],
    *,
    detector: Detector,
    encoder: EdgeEncoder,
    gallery: Gallery,
    residents: Sequence[int] = (),
    half_at: float = 0.0,
) -> Recording:
    """Run a site up to its embeddings and note them.

    Args:
        site: Cameras, tracking and quality are read from it.
        moments: Frames, those of one time together.
        truths: Of every camera. It is read when all moments were, so it may grow meanwhile.
        detector: Open.
        encoder: Open.
        gallery: Open, and left as it is.
        residents: People who come in the first half too.
        half_at: When the second half begins; seconds since the epoch.
    """
    cameras = [camera.name for camera in site.cameras]
    with tempfile.TemporaryDirectory() as folder:
        with TrackLog(Path(folder), cameras) as tracks:
            recorder = _Recorder(
                site, detector=detector, encoder=encoder, gallery=gallery, sink=_Events(), tracks=tracks,
                metrics=Metrics(),
            )  # fmt: skip
            for frames in moments:
                recorder.handle(frames)
            recorder.finish()
        matches = {camid: list(_match_camera(Path(folder), camid, truths.get(camid, ()))) for camid in cameras}
    every = [match for found in matches.values() for match in found]
    counts = Counter((pid, key) for match in every for pid, key in match.pairs)
    rows = [(pid, cameras.index(camid), track_id, boxes) for (pid, (camid, track_id)), boxes in sorted(counts.items())]
    counted = Counter(key for match in every for key in match.predicted)
    facts = Facts(
        cameras=tuple(cameras),
        encoder_hash=encoder.bundle.encoder_hash,
        precision=encoder.precision,
        true_boxes=sum(match.true_boxes for match in every),
        detected=sum(match.detected for match in every),
        pids=tuple(sorted({pid for match in every for pid in match.pids})),
        residents=tuple(residents),
        half_at=half_at,
    )
    return Recording(
        facts=facts,
        boxes_B=np.array(recorder.boxes, dtype=BOX),
        ended_E=np.array(recorder.ended, dtype=ENDED),
        pictures_P=np.array(recorder.pictures, dtype=PICTURE),
        embeddings_PD=np.array(recorder.embeddings_D, dtype=np.float32),
        agreements_A=np.array(rows, dtype=AGREEMENT),
        counted_C=np.array(
            [(cameras.index(camid), track_id, boxes) for (camid, track_id), boxes in sorted(counted.items())],
            dtype=COUNTED,
        ),
    )


def join(recordings: Sequence[Recording]) -> Recording:
    """Put recordings of single cameras together; they must not share one."""
    cameras = tuple(camid for recording in recordings for camid in recording.facts.cameras)
    assert len(set(cameras)) == len(cameras), cameras
    every = [recording.facts for recording in recordings]
    facts = replace(
        every[0],
        cameras=cameras,
        true_boxes=sum(facts.true_boxes for facts in every),
        detected=sum(facts.detected for facts in every),
        pids=tuple(sorted({pid for facts in every for pid in facts.pids})),
    )
    tables = {name: _joined([getattr(recording, name) for recording in recordings], cameras, every) for name in ROWS}
    order_P = np.argsort(tables["pictures_P"]["time"], kind="stable")
    embeddings_PD = np.concatenate([recording.embeddings_PD for recording in recordings])[order_P]
    for name in TIMED:
        tables[name] = tables[name][np.argsort(tables[name]["time"], kind="stable")]
    return Recording(facts=facts, embeddings_PD=embeddings_PD, **tables)


def _joined(tables: Sequence[NDArray[np.void]], cameras: Sequence[str], facts: Sequence[Facts]) -> NDArray[np.void]:
    """One table of many, cameras renumbered."""
    renumbered = []
    for table, own in zip(tables, facts, strict=True):
        table = table.copy()
        table["camera"] = np.array([cameras.index(camid) for camid in own.cameras], dtype=np.int16)[table["camera"]]
        renumbered.append(table)
    return np.concatenate(renumbered)


def _match_camera(tracks: Path, camid: str, truths: Sequence[Truth]) -> Iterator[FrameMatch]:
    """Hold the boxes of each frame against the truth, every track an identity of its own."""
    true: defaultdict[int, list[Truth]] = defaultdict(list)
    for truth in truths:
        true[truth.frame].append(truth)
    predicted = read_boxes(tracks / f"{camid}.csv", camid, {})
    for frame in sorted({*true, *predicted}):
        yield match_frame(true[frame], predicted[frame])


def replay(recording: Recording, site: Site) -> Replayed:
    """Decide anew who is who.

    Args:
        recording: What happened.
        site: Its `identity` decides, with the threshold of its `bundle` where it has none; see `replay_site`.

    Raises:
        InputError: The recording was made by another encoder than the bundle's.
    """
    bundle = Bundle.load(site.bundle)
    if bundle.encoder_hash != recording.facts.encoder_hash:
        raise InputError(f"the recording is not of the encoder in {site.bundle}. Record the site again.")
    encoder = open_encoder(bundle, precision=recording.facts.precision)
    events, table = _Events(), _Table()
    with open_gallery(site, bundle, encoder) as gallery:
        player = _Player(
            recording, site, detector=None, encoder=encoder, gallery=gallery, sink=events, tracks=table,
            metrics=Metrics(),
        )  # fmt: skip
        for frames in player.moments():
            player.handle(frames)
        player.finish()
    return Replayed(score=recording.score(table.identities), identities=table.identities, events=tuple(events))


def replay_site(recording: Recording, bundle: Path, settings: Sequence[str] = ()) -> Site:
    """Describe a recorded site.

    Args:
        recording: Its cameras are taken.
        bundle: Whose encoder made it.
        settings: `key=value` pairs as on the command line, e.g. `identity.min_margin=0.05`.
    """
    cameras = [{"name": name, "source": f"{name}.mp4"} for name in recording.facts.cameras]
    values = apply_overrides({"bundle": str(bundle), "cameras": cameras}, settings)
    return validate(Site, values, where="the recorded site")


def read_half(site: Path, half: str) -> tuple[Iterator[list[Frame]], dict[str, list[Truth]]]:
    """Frames and truth of one half of a demo's site."""
    config = read_site_config(site)
    start = config.started_at + (config.half_seconds[0] if half == "second" else 0)
    camids = [f"cam{index + 1}" for index in range(config.cameras)]
    streams = [read_footage(str(site / "footage" / half / f"{c}.mp4"), camid=c, start=start) for c in camids]
    moments = ([frame for frame in frames if frame is not None] for frames in zip_longest(*streams))
    return moments, {camid: list(read_mot(site / "truth" / half / camid)) for camid in camids}


def record_half(site_folder: Path, bundle_folder: Path, half: str = "second") -> Recording:
    """Record one half of a demo's site with the motion detector."""
    from reidge.edge.detectors import open_detector

    config, bundle = read_site_config(site_folder), Bundle.load(bundle_folder)
    moments, truths = read_half(site_folder, half)
    cameras = tuple(CameraConfig(name=name, source=f"{name}.mp4") for name in truths)
    site = Site(bundle=bundle_folder, cameras=cameras)
    with (
        open_detector(site.detector) as detector,
        open_encoder(bundle) as encoder,
        open_gallery(site, bundle, encoder) as gallery,
    ):
        return record(
            site, moments, truths, detector=detector, encoder=encoder, gallery=gallery,
            residents=range(1, config.residents + 1), half_at=config.started_at + config.half_seconds[0],
        )  # fmt: skip


def main() -> None:
    """Record a half, or replay one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replay", action="store_true", help="of FILE BUNDLE [KEY=VALUE ...]")
    parser.add_argument("--half", choices=("first", "second"), default="second")
    parser.add_argument("what", nargs="+")
    args = parser.parse_args()
    if args.replay:
        recording = Recording.load(Path(args.what[0]))
        site = replay_site(recording, Path(args.what[1]), args.what[2:])
        print(json.dumps(asdict(replay(recording, site).score)))
    else:
        source, bundle, target = map(Path, args.what)
        record_half(source, bundle, args.half).save(target)


if __name__ == "__main__":
    main()
