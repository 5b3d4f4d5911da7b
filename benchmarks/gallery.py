"""The gallery at 100,000 and 1,000,000 identities, on one core: how fast it answers, and whether it finds who is there.

Embeddings are simulated with the spectrum of an encoder's: x = norm(c + noise s z), c of an identity, z of a picture,
both normal with components that fall as 1 / sqrt(i), s log-normal. Noise is that of a track's mean, not of one picture:
the same person is found at a cosine of about 0.7, and the nearest of all strangers at 0.5. Every identity has one
exemplar, which is the hardest: there is no second chance to be found. Half of the queries show somebody who is in the
gallery, half a stranger.

Beside the gallery, in the same process: the plain product with all embeddings, and what faiss offers of the kind.

    python benchmarks/gallery.py                        # 100,000 and 1,000,000: 10 minutes, 4 GB of memory
    python benchmarks/gallery.py --identities 100000    # one minute
    python benchmarks/gallery.py --table                # write the table of the last result into the docs
"""

# M = identities, Q = queries, R = rows of a block, K = found, D = embedding

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from publish import RESULTS, markdown_table, provenance, put_between_markers, ran_on, write_result

from reidge.edge import records
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.records import Exemplar, Identity
from reidge.edge.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RESULT = RESULTS / "gallery.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "gallery.md"
IDENTITIES = (100_000, 1_000_000)
DIM = 512
NOISE = 0.6
UNEVEN = 0.35
BLOCK = 4096
QUERIES = 1024
"""Half of them strangers."""
AT_ONCE = 16
REPEATS = 50
CHANGES = 100
CELLS = 1024
"""Of an inverted file, for comparison."""
MOST_FOR_FAISS = 200_000
"""Beyond, a second copy of all is too much for the machine."""
ENCODER = "0" * 64
CONFIG = GalleryConfig(min_similarity=0.5)
GOALS = {"match_ms": 20.0, "add_ms": 5.0, "erase_ms": 5.0, "restart_s": 3.0, "recall": 0.99}
"""At 100,000."""
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def centres(start: int, count: int) -> NDArray[np.float32]:
    """What identities from `start` on look like, `(R, D)`."""
    rng = np.random.default_rng([0, start])
    return rng.standard_normal((count, DIM), dtype=np.float32) * spectrum()


def spectrum() -> NDArray[np.float32]:
    """Standard deviation of each component, unit length in all."""
    falling_D = np.arange(1, DIM + 1, dtype=np.float32) ** np.float32(-0.5)
    return np.asarray(falling_D / np.linalg.norm(falling_D))


def pictured(centres_RD: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """One embedding of each."""
    scale_R = NOISE * np.exp(UNEVEN * rng.standard_normal(len(centres_RD), dtype=np.float32))
    own_RD = rng.standard_normal(centres_RD.shape, dtype=np.float32) * spectrum()
    found_RD = centres_RD + scale_R[:, None] * own_RD
    return np.asarray(found_RD / np.linalg.norm(found_RD, axis=1, keepdims=True), dtype=np.float32)


def write_gallery(path: Path, identities: int) -> None:
    """Fill a gallery's file, past the gallery: one by one takes longer than the rest of the benchmark."""
    store = Store(path, encoder_hash=ENCODER, embedding_dim=DIM)
    for start in range(0, identities, BLOCK):
        count = min(BLOCK, identities - start)
        embeddings_RD = pictured(centres(start, count), np.random.default_rng([1, start]))
        numbers = range(start + 1, start + count + 1)
        store.write(
            [records.put_identity(Identity(global_id=n, created_at=float(n), last_seen=float(n))) for n in numbers]
        )
        store.write(
            [
                records.put_exemplar(Exemplar(exemplar_id=n, global_id=n, captured_at=float(n), embedding_D=e))
                for n, e in zip(numbers, embeddings_RD, strict=True)
            ]
        )
    store.close()


def make_queries(identities: int) -> NDArray[np.float32]:
    """`(Q, D)`: first people who are in the gallery, in blocks from all over it, then as many strangers."""
    starts = np.linspace(0, max(0, identities - BLOCK), 8).astype(int) // BLOCK * BLOCK
    count = min(BLOCK, identities)
    known_RD = np.concatenate([centres(int(start), count)[: QUERIES // 2 // len(starts)] for start in starts])
    strangers_RD = centres(10**9, len(known_RD))
    return pictured(np.concatenate([known_RD, strangers_RD]), np.random.default_rng(2))


def milliseconds(call: Callable[[], object], times: int = REPEATS) -> dict[str, float]:
    """Wall time of a call: median and 95th percentile; and the median of what it cost this thread's processor."""
    call()
    spent, worked = [], []
    for _ in range(times):
        began, before = time.perf_counter(), time.thread_time()
        call()
        spent.append(time.perf_counter() - began)
        worked.append(time.thread_time() - before)
    found = {"p50": np.median(spent), "p95": np.quantile(spent, 0.95), "core_p50": np.median(worked)}
    return {name: round(1e3 * float(seconds), 3) for name, seconds in found.items()}


def resident_mb() -> float:
    """Memory of this process."""
    return round(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def measure(path: Path, identities: int) -> dict[str, Any]:
    """Everything about one size, in this process."""
    before = resident_mb()
    began = time.perf_counter()
    gallery = Gallery(path, encoder_hash=ENCODER, embedding_dim=DIM, config=CONFIG)
    queries_QD = make_queries(identities)
    gallery.nearest(queries_QD[0])
    figures: dict[str, Any] = {"identities": identities, "restart_s": round(time.perf_counter() - began, 3)}
    figures["memory_mb"] = round(resident_mb() - before, 1)
    figures["file_mb"] = round(path.stat().st_size / 2**20, 1)
    with gallery:
        figures |= measure_search(gallery, queries_QD)
        figures |= measure_changes(gallery, queries_QD)
        embeddings_MD = np.ascontiguousarray(gallery._index.embeddings_MD)
    figures["others"] = measure_others(embeddings_MD, queries_QD)
    return figures


def measure_search(gallery: Gallery, queries_QD: NDArray[np.float32]) -> dict[str, Any]:
    """Times, and how often the best answer is that of an exact search."""
    some_QD = queries_QD[np.linspace(0, len(queries_QD) - 1, AT_ONCE).astype(int)]
    found = [found[0].global_id for at in range(0, len(queries_QD), AT_ONCE)
             for found in gallery.nearest_many(queries_QD[at : at + AT_ONCE])]  # fmt: skip
    exact, best = exact_best(gallery, queries_QD)
    right_Q = np.array(found) == exact
    half = len(queries_QD) // 2
    return {
        "match_ms": milliseconds(lambda: gallery.nearest_many(some_QD)),
        "match_one_ms": milliseconds(lambda: gallery.match(some_QD[0])),
        "recall": round(float(right_Q.mean()), 4),
        "recall_known": round(float(right_Q[:half].mean()), 4),
        "recall_strangers": round(float(right_Q[half:].mean()), 4),
        "similarity_known": round(float(np.median(best[:half])), 3),
        "similarity_strangers": round(float(np.median(best[half:])), 3),
    }


def exact_best(gallery: Gallery, queries_QD: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest identity of each query and its similarity, by comparing with everybody."""
    index = gallery._index
    best_Q = np.full(len(queries_QD), -2.0, dtype=np.float32)
    ids_Q = np.zeros(len(queries_QD), dtype=np.int64)
    for start in range(0, len(index), 50_000):
        found_QR = queries_QD @ index.embeddings_MD[start : start + 50_000].T
        rows_Q = found_QR.argmax(axis=1)
        values_Q = found_QR[np.arange(len(rows_Q)), rows_Q]
        better_Q = values_Q > best_Q
        best_Q[better_Q], ids_Q[better_Q] = values_Q[better_Q], index.global_ids_M[start + rows_Q[better_Q]]
    return ids_Q, best_Q


def measure_changes(gallery: Gallery, queries_QD: NDArray[np.float32]) -> dict[str, Any]:
    """Add and erase, in memory and until the file says so."""
    embeddings = iter(np.tile(queries_QD, (1 + 4 * CHANGES // len(queries_QD), 1)))
    made: list[int] = []

    def add(*, wait: bool) -> None:
        made.append(gallery.enrol(next(embeddings), captured_at=0.0))
        if wait:
            assert gallery.flush(10.0)

    figures = {"add_ms": milliseconds(lambda: add(wait=False), CHANGES)}
    assert gallery.flush(60.0)
    figures["add_durable_ms"] = milliseconds(lambda: add(wait=True), CHANGES)
    figures["erase_ms"] = milliseconds(lambda: gallery.forget(made.pop()), CHANGES)
    assert gallery.flush(60.0)
    more = [gallery.enrol(next(embeddings), captured_at=0.0) for _ in range(CHANGES + 1)]
    assert gallery.flush(60.0)

    def erase_from_file() -> None:
        gallery.forget(more.pop())
        assert gallery.flush(10.0)

    figures["erase_durable_ms"] = milliseconds(erase_from_file, CHANGES)
    figures["erase_traceless_ms"] = milliseconds(lambda: gallery.erase(made.pop()), CHANGES)
    return figures


def measure_others(embeddings_MD: NDArray[np.float32], queries_QD: NDArray[np.float32]) -> list[dict[str, Any]]:
    """The same by other means: time of 16 queries, recall of all; faiss only where there are not too many for it."""
    some_QD = queries_QD[np.linspace(0, len(queries_QD) - 1, AT_ONCE).astype(int)]
    others: list[dict[str, Any]] = [
        {
            "what": "numpy, every exemplar in full",
            "recall": 1.0,
            "match_ms": milliseconds(lambda: embeddings_MD @ some_QD.T, 9),
        }
    ]
    if len(embeddings_MD) > MOST_FOR_FAISS:
        return others
    with suppress(ImportError):
        import faiss

        faiss.omp_set_num_threads(1)
        exact_Q = (queries_QD @ embeddings_MD.T).argmax(axis=1)
        for kind in ("IDMap2,Flat", "IDMap2,SQfp16", f"IVF{CELLS},Flat"):
            index = faiss.index_factory(DIM, kind, faiss.METRIC_INNER_PRODUCT)
            cells = faiss.try_extract_index_ivf(index)
            if cells is not None:
                cells.cp.niter, cells.nprobe = 5, CELLS // 8
            index.train(embeddings_MD[: 40 * CELLS])
            index.add_with_ids(embeddings_MD, np.arange(len(embeddings_MD)))
            spent = milliseconds(lambda index=index: index.search(some_QD, 16), 9)
            recall = float((index.search(queries_QD, 1)[1][:, 0] == exact_Q).mean())
            eighth = ", an eighth of the cells" if cells is not None else ""
            what = f"faiss {faiss.__version__} {kind}{eighth}"
            others.append({"what": what, "recall": round(recall, 4), "match_ms": spent})
    return others


def run_all(sizes: list[int], work: Path) -> dict[str, Any]:
    """Measure each size in a process of its own, on one core."""
    runs = []
    for identities in sizes:
        path = work / f"gallery-{identities}.sqlite"
        print(f"writing {identities:,} identities ...", file=sys.stderr, flush=True)
        write_gallery(path, identities)
        print("measuring ...", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--measure", str(path), "--identities", str(identities)]
        done = subprocess.run(command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(done.stdout))
        for file in work.glob(f"{path.name}*"):
            file.unlink()
    return provenance() | {"dim": DIM, "noise": NOISE, "at_once": AT_ONCE, "goals": GOALS, "runs": runs}


def describe(result: dict[str, Any]) -> str:
    """The table."""
    rows = []
    for run in result["runs"]:
        rows.append(
            (
                f"{run['identities']:,}",
                f"{run['match_ms']['p50']:.1f} ({run['match_ms']['p95']:.1f})",
                f"{run['match_one_ms']['p50']:.1f}",
                f"{run['add_ms']['p50']:.2f} / {run['add_durable_ms']['p50']:.1f}",
                f"{run['erase_ms']['p50']:.2f} / {run['erase_durable_ms']['p50']:.1f}"
                f" / {run['erase_traceless_ms']['p50']:.1f}",
                f"{run['restart_s']:.1f}",
                f"{run['recall_known']:.3f} / {run['recall_strangers']:.3f}",
                f"{run['memory_mb']:,.0f} / {run['file_mb']:,.0f}",
            )
        )
    header = (
        "identities",
        f"match of {result['at_once']}: ms (95 %)",
        "match of one: ms",
        "add: ms, in memory / on disk",
        "erase: ms, in memory / on disk / without a trace in the journal",
        "restart: s",
        "recall@1, known / strangers",
        "MB, memory / file",
    )
    others = [
        (
            f"{run['identities']:,}",
            other["what"],
            f"{other['match_ms']['p50']:.1f} ({other['match_ms']['p95']:.1f})",
            f"{other['recall']:.3f}",
        )
        for run in result["runs"]
        for other in ({"what": "this gallery", "match_ms": run["match_ms"], "recall": run["recall"]}, *run["others"])
    ]
    beside = markdown_table(("identities", "by", f"match of {result['at_once']}: ms (95 %)", "recall@1"), others)
    return f"{markdown_table(header, rows)}\n\n{beside}\n\n{ran_on(result)}"


def main() -> None:
    """Measure, or write the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, nargs="+", default=list(IDENTITIES), help="how many, one run each")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="write the table of the last result into the docs")
    args = parser.parse_args()
    if args.measure is not None:
        with suppress(AttributeError, OSError):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        print(json.dumps(measure(args.measure, args.identities[0])))
        return
    if args.table:
        put_between_markers(DOCUMENT, "gallery", describe(json.loads(args.result.read_text())))
        return
    with tempfile.TemporaryDirectory() as work:
        result = run_all(args.identities, Path(work))
    write_result(args.result, result)
    print(describe(result))


if __name__ == "__main__":
    main()
