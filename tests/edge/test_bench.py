from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.backends.choice import Choice
from reidge.edge.bench import BenchReport, Speed, bench, describe
from reidge.edge.bundle import Bundle
from reidge.edge.errors import InputError, ReidgeError

if TYPE_CHECKING:
    from pathlib import Path

GOLDEN = {"golden_cosine_mean": 0.998, "golden_cosine_min": 0.99}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the GPU, if there is one: its engines take minutes to build."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")


def test_calls_are_summed_up_by_hand() -> None:
    # Twenty calls of 4 crops: 19 of 10 ms and one of 110 ms, 300 ms in all.
    speed = describe(np.array([0.010] * 19 + [0.110]), "openvino", "int8", 4, GOLDEN, 1.5)
    assert speed.calls == 20
    assert speed.images_per_second == pytest.approx(80 / 0.3)
    assert speed.median_ms == pytest.approx(10)
    assert speed.p95_ms == pytest.approx(15)  # 0.95 x 19 = 18.05: a twentieth of the way from 10 to 110 ms
    assert speed.start_seconds == 1.5
    assert (speed.golden_cosine_mean, speed.golden_cosine_min) == (0.998, 0.99)


def test_each_combination_that_works_is_measured_and_the_rest_is_named(tiny_bundle: Path) -> None:
    report = bench(Bundle.load(tiny_bundle), batches=(1, 3), seconds=0.02, threads=1)
    measured = [(speed.backend, speed.precision, speed.batch) for speed in report.speeds]
    assert measured == [(name, "float", batch) for name in ("openvino", "onnxruntime") for batch in (1, 3)]
    for speed in report.speeds:
        assert speed.calls >= 5
        assert 0 < speed.median_ms <= speed.p95_ms
        assert speed.images_per_second > 0
        assert speed.start_seconds > 0
        assert speed.golden_cosine_min is not None
        assert speed.golden_cosine_mean is not None
        assert 0.999 < speed.golden_cosine_min <= speed.golden_cosine_mean < 1.001
    assert set(report.missing) == {
        "tensorrt",
        "onnxruntime-cuda",
        "onnxruntime-tensorrt",
        "openvino int8",
        "onnxruntime int8",
    }
    assert "has no int8 graph" in report.missing["openvino int8"]
    assert all("\n" not in reason for reason in report.missing.values())


def test_the_fastest_is_that_of_the_highest_throughput_at_any_batch() -> None:
    def speed(backend: str, precision: str, batch: int, images: float) -> Speed:
        return Speed(
            backend=backend,  # type: ignore[arg-type]
            precision=precision,  # type: ignore[arg-type]
            batch=batch,
            calls=5,
            images_per_second=images,
            median_ms=1,
            p95_ms=1,
            golden_cosine_mean=1,
            golden_cosine_min=1,
            start_seconds=1,
        )

    speeds = speed("openvino", "float", 1, 90), speed("openvino", "int8", 1, 80), speed("openvino", "int8", 8, 200)
    assert BenchReport(speeds=speeds, missing={}).fastest() == Choice(backend="openvino", precision="int8")


@pytest.mark.parametrize("batches", [(), (0,), (8, 65)])
def test_batches_that_would_be_split_or_empty_are_refused(tiny_bundle: Path, batches: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="batches are 1 to 64"):
        bench(Bundle.load(tiny_bundle), batches=batches)


def test_a_backend_is_no_precision(tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match=r"the precision 'openvino' is unknown\. Choose of float, int8"):
        bench(Bundle.load(tiny_bundle), precisions=("openvino",))  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_no_time_and_endless_time_are_refused(tiny_bundle: Path, seconds: float) -> None:
    with pytest.raises(InputError, match="seconds to measure"):
        bench(Bundle.load(tiny_bundle), seconds=seconds)


def test_nothing_to_measure_is_a_failure_that_says_why(tiny_bundle: Path) -> None:
    with pytest.raises(ReidgeError, match="nothing could be measured: tensorrt: "):
        bench(Bundle.load(tiny_bundle), backends=("tensorrt",))
