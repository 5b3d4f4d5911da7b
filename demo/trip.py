"""The whole trip on the simulated site: footage to encoder to bundle to identities, every stage scored."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from reidge.calibration.harvest import HarvestConfig, harvest
from reidge.demo.picture import draw_result
from reidge.demo.score import IdentityScore, score_run
from reidge.demo.site import SiteConfig, simulate
from reidge.edge.backends import open_encoder
from reidge.edge.bundle import Bundle
from reidge.edge.camera import CameraConfig
from reidge.edge.outputs import OutputConfig
from reidge.edge.service import run_site
from reidge.edge.site import IdentityConfig, Site, StorageConfig
from reidge.export.bundle import export_bundle
from reidge.train.checkpoint import load_encoder
from reidge.train.datasets import open_benchmark
from reidge.train.encoders import build_encoder
from reidge.train.evaluate import Ranking, evaluate_split
from reidge.train.extract import embed_crops
from reidge.train.histogram import SIZE, embed_histograms
from reidge.train.loop import train

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reidge.edge.figures import RunSummary
    from reidge.export.bundle import ExportReport
    from reidge.train.encoders import Encoder
    from reidge.train.recipe import Recipe


@dataclass(kw_only=True)
class Stopwatch:
    """Wall-clock seconds of each stage, said as the stages begin."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, claim: str) -> Iterator[None]:
        """Time what runs inside, under `name`."""
        print(f"\n== {name}: {claim}", file=sys.stderr, flush=True)
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 1)


def run_demo(output: Path, recipe: Recipe, config: SiteConfig) -> dict[str, Any]:
    """Run every stage into `output` and return the figures, also written to `output/figures.json`.

    Raises:
        InputError: `output/site` exists already.
    """
    watch = Stopwatch()
    output.mkdir(parents=True, exist_ok=True)
    site, crops, run, bundle = (output / name for name in ("site", "crops", "run", "bundle"))
    with watch.stage("simulate", f"{config.cameras} cameras film {config.residents + config.strangers} people"):
        simulate(config, site)
    with watch.stage("harvest", "crops from the first half of the footage, without labels"):
        harvested = harvest(footage(site, "first", config), crops, HarvestConfig(start=config.started_at))
    with watch.stage("train", "an encoder from those crops alone, from random weights"):
        trained = train(recipe, crops, run, split=site / "split")
    encoder = load_encoder(run)
    with watch.stage("export", "the encoder to ONNX and INT8"):
        exported = export_bundle(
            encoder,
            crops,
            bundle,
            source=run.name,
            separate_views=True,
            seed=config.seed,
        )
    with watch.stage("evaluate", "encoder, bundle and baselines on labelled crops of the second half"):
        rankings = evaluate_all(site / "split", encoder, bundle, seed=config.seed)
    with watch.stage("run", "the bundle on the second half, all cameras at once"):
        summary = run_site(live_site(output, config))
    with watch.stage("score", "the identities found against the truth"):
        score = score_run(site / "truth" / "second", output / "tracks")
        draw_result(site, output / "tracks", output / "result.png")
    figures = summarise(rankings, exported, score, summary) | {
        "crops": harvested.crops,
        "clusters": trained.clusters,
        "memory_mb_peak": round(peak_memory_mb()),
        "seconds": watch.seconds | {"total": round(sum(watch.seconds.values()), 1)},
    }
    (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def footage(site: Path, half: str, config: SiteConfig) -> dict[str, str]:
    """Name the footage of one half by camera."""
    return {f"cam{i + 1}": str(site / "footage" / half / f"cam{i + 1}.mp4") for i in range(config.cameras)}


def live_site(output: Path, config: SiteConfig) -> Site:
    """Describe the second half as a site to run, as a site file would."""
    start = config.started_at + config.half_seconds[0]
    cameras = tuple(
        CameraConfig(name=name, source=source, pace="full", start=start)
        for name, source in footage(output / "site", "second", config).items()
    )
    return Site(
        bundle=output / "bundle",
        cameras=cameras,
        identity=IdentityConfig(),
        storage=StorageConfig(gallery=str(output / "gallery.sqlite")),
        outputs=OutputConfig(events=str(output / "events.jsonl"), tracks=output / "tracks"),
    )


def evaluate_all(split_root: Path, encoder: Encoder, bundle: Path, *, seed: int) -> dict[str, Ranking]:
    """Score the histogram baseline, random weights, the trained encoder and the INT8 bundle on one split."""
    split = open_benchmark(split_root)
    torch.manual_seed(seed)
    untrained = build_encoder(encoder.architecture, input_size=encoder.input_size, **encoder.options)
    score = partial(evaluate_split, split=split, size=encoder.input_size, resize=encoder.resize)
    rankings = {
        "histogram": evaluate_split(embed_histograms, split, size=SIZE, resize="linear"),
        "untrained": score(partial(embed_crops, untrained)),
        "trained": score(partial(embed_crops, encoder)),
    }
    with open_encoder(Bundle.load(bundle), precision="int8") as int8:
        rankings["int8"] = score(int8.embed)
    return rankings


def summarise(
    rankings: dict[str, Ranking], exported: ExportReport, score: IdentityScore, summary: RunSummary
) -> dict[str, Any]:
    """Put the figures of all stages under their public names; mAP, rank-1 in percent, other ratios 0 to 1."""
    return {
        "map_untrained": percent(rankings["untrained"].mAP),
        "map_histogram": percent(rankings["histogram"].mAP),
        "map_trained": percent(rankings["trained"].mAP),
        "rank1_trained": percent(float(rankings["trained"].cmc[0])),
        "map_int8": percent(rankings["int8"].mAP),
        "cosine_int8_mean": round(exported.figures["cosine_int8_mean"], 5),
        "idf1": round(score.idf1, 4),
        "idf1_precision": round(score.precision, 4),
        "idf1_recall": round(score.recall, 4),
        "detection_f1": round(score.detection_f1, 4),
        "identities_true": score.identities_true,
        "identities_found": score.identities_found,
        "frames_per_second": round(summary.frames_per_second, 1),
        "latency_ms_p95": None if summary.latency_ms_p95 is None else round(summary.latency_ms_p95, 1),
    }


def percent(fraction: float) -> float:
    """Hundredths, to two places."""
    return round(100 * fraction, 2)


def peak_memory_mb() -> float:
    """Largest resident memory of this process or of one it started, so far."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def clear(output: Path) -> None:
    """Remove what an earlier demo wrote; other files in the folder stay."""
    for name in ("site", "crops", "run", "bundle", "tracks"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in ("events.jsonl", "figures.json", "result.png", *(f"gallery.sqlite{s}" for s in ("", "-wal", "-shm"))):
        (output / name).unlink(missing_ok=True)
