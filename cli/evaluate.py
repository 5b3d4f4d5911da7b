"""`reidge evaluate`: mAP and rank-k of an encoder, a bundle or the histogram baseline on a labelled split."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reidge.cli.output import add_json_argument, emit
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from reidge.edge.crops import ResizeMethod

HISTOGRAM = "histogram"
MANIFEST_NAME = "manifest.json"
RANKS = (1, 5, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedder:
    """Something that embeds crops, and what it wants them to be like."""

    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    size: tuple[int, int]
    """Height and width in pixels."""
    resize: ResizeMethod
    name: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the stage's arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"run folder, encoder.safetensors, foreign .pth, bundle folder, or the word {HISTOGRAM} for the baseline",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="SPLIT", help="labelled data set as it was unpacked, or own images"
    )
    parser.add_argument(
        "--layout", default="auto", help="how it is read: market1501, dukemtmc, msmt17, personx, veri776, csv, pattern"
    )
    parser.add_argument(
        "--pattern",
        default=None,
        metavar="REGEX",
        help="how paths of own images tell who and where, e.g. '(?P<camid>\\w+)/(?P<pid>\\d+)_'",
    )
    parser.add_argument(
        "--csv", type=Path, default=None, metavar="FILE", help="table of own images with path,pid,camid,split"
    )
    parser.add_argument(
        "--rerank", action="store_true", default=False, help="re-rank by k-reciprocal neighbours (k1 20, k2 6, 0.3)"
    )
    parser.add_argument("--architecture", default=None, help="network that a foreign .pth belongs to")
    parser.add_argument("--backend", default="auto", help="runtime of a bundle, or auto; see reidge bench")
    parser.add_argument("--precision", default="auto", help="precision of a bundle: auto, float, int8")
    parser.add_argument("--batch-size", type=int, default=64, help="crops at a time")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Score and print."""
    from reidge.train.datasets import open_benchmark
    from reidge.train.evaluate import evaluate_split
    from reidge.train.rerank import RerankConfig

    if args.batch_size < 1:
        raise InputError(f"--batch-size is {args.batch_size}. Give 1 or more.")
    split = open_benchmark(args.data, layout=args.layout, pattern=args.pattern, csv=args.csv)
    with open_embedder(args) as embedder:
        ranking = evaluate_split(
            embedder.embed,
            split,
            size=embedder.size,
            resize=embedder.resize,
            batch_size=args.batch_size,
            rerank=RerankConfig() if args.rerank else None,
            quiet=False,
        )
    figures = {
        "model": embedder.name,
        "queries": len(split.query),
        "gallery": len(split.gallery),
        "reranked": args.rerank,
        "map": 100 * ranking.mAP,
        **{f"rank{rank}": 100 * float(ranking.cmc[min(rank, len(ranking.cmc)) - 1]) for rank in RANKS},
        "minp": 100 * ranking.mINP,
    }
    emit(args, figures)
    return 0


@contextmanager
def open_embedder(args: argparse.Namespace) -> Iterator[Embedder]:
    """Open whatever `args.model` names."""
    if args.model == HISTOGRAM:
        from reidge.train.histogram import SIZE, embed_histograms

        yield Embedder(embed=embed_histograms, size=SIZE, resize="linear", name=HISTOGRAM)
        return
    path = Path(args.model)
    if (path / MANIFEST_NAME).is_file():
        from reidge.edge.backends import open_encoder
        from reidge.edge.bundle import Bundle

        bundle = Bundle.load(path)
        spec = bundle.manifest.input
        with open_encoder(bundle, backend=args.backend, precision=args.precision) as encoder:
            name = f"{path.name} ({encoder.backend}, {encoder.precision})"
            yield Embedder(embed=encoder.embed, size=(spec.height, spec.width), resize=spec.resize, name=name)
        return
    from reidge.train.checkpoint import load_encoder
    from reidge.train.extract import embed_crops

    network = load_encoder(path, args.architecture)
    yield Embedder(
        embed=lambda crops_NHW3: embed_crops(network, crops_NHW3),
        size=network.input_size,
        resize=network.resize,
        name=network.architecture,
    )
