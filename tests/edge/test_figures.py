from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from reidge.cli.main import main
from reidge.edge.figures import RunSummary, readable
from tests.servers.disk import largest_file

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SUMMARY = RunSummary(
    cameras=2,
    frames=300,
    dropped=5,
    frames_by_camera={"hall": 200, "door": 100},
    seconds=30.0,
    frames_per_second=10.0,
    latency_ms_p50=41.6,
    latency_ms_p95=90.2,
    stage_seconds={"detect": 12.44, "track": 0.06},
    overhead=0.083,
    embeddings=40,
    sightings=7,
    undecided=1,
    identities=3,
    events=55,
    events_lost=0,
    backend="openvino",
    precision="int8",
    detector_backend=None,
    detector_precision=None,
)


def test_figures_for_people_have_their_units() -> None:
    assert readable(SUMMARY) == {
        "frames": "300 handled (hall 200, door 100), 5 left out",
        "speed": "10.0 frames a second over 30.0 s",
        "time": "detect 12.4 s, track 0.1 s; 8% of the work outside detector and encoder",
        "frame to event": "42 ms as a rule, 95 % in 90 ms",
        "people": "3 identities in 7 sightings, 1 undecided",
        "embeddings": "40",
        "events": "55",
        "encoder": "openvino, int8",
    }


def test_what_there_is_not_is_said_in_words_or_left_out() -> None:
    found = readable(
        replace(
            SUMMARY,
            latency_ms_p50=None,
            latency_ms_p95=None,
            overhead=None,
            detector_backend="a",
            detector_precision="b",
            events_lost=2,
        )
    )
    assert found["frame to event"] == "no frame caused one"
    assert found["time"] == "detect 12.4 s, track 0.1 s"
    assert found["events"] == "55, 2 of them lost"
    assert found["detector"] == "a, b"


def write_site(folder: Path, bundle: Path, recording: Path) -> str:
    site = {
        "bundle": str(bundle),
        "cameras": [{"name": "cam1", "source": str(recording), "start": 1000}],
        "encoder": {"backend": "onnxruntime", "threads": 1},
        "identity": {"min_similarity": 0.8, "min_sightings": 1},
        "outputs": {"events": "events.jsonl"},
    }
    path = folder / "site.yaml"
    path.write_text(json.dumps(site))
    return str(path)


def test_the_end_of_a_run_is_told_in_words(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", write_site(tmp_path, tiny_bundle, walks["cam1"])]) == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["frames"] == "120 handled (cam1 120), 0 left out"
    assert told["encoder"] == "onnxruntime, float"


def test_a_run_whose_last_events_are_lost_has_failed(
    tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    site = write_site(tmp_path, tiny_bundle, walks["cam1"])
    with largest_file(0):  # as on a disk that is full until the end
        assert main(["run", site, "--json"]) == 1
    said = capsys.readouterr()
    figures = json.loads(said.out)
    assert figures["events_lost"] == figures["events"] > 0
    assert "events not delivered" in said.err
