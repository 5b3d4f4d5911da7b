from __future__ import annotations

import json
import socket
import threading
import wave
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from reidge.cli.main import main
from reidge.edge.gallery import Gallery, GalleryConfig
from reidge.edge.metrics import Metrics
from reidge.edge.web import Web, WebConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest


def write_site(folder: Path, bundle: Path, recording: Path, **more: Any) -> Path:
    site = {
        "bundle": str(bundle),
        "cameras": [{"name": "hall", "source": str(recording), "pace": "realtime"}],
        "encoder": {"backend": "onnxruntime", "threads": 1},
        "storage": {"gallery": "state/gallery.sqlite"},
        "outputs": {"events": "out/events.jsonl"},
    } | more
    (folder / "site.yaml").write_text(json.dumps(site))
    return folder / "site.yaml"


def findings(path: Path, capsys: pytest.CaptureFixture[str], status: int) -> dict[str, tuple[str, str]]:
    """State and text by part."""
    assert main(["run", "--check", "--json", str(path)]) == status
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] == (status == 0)
    return {finding["part"]: (finding["state"], finding["text"]) for finding in told["findings"]}


def test_a_site_that_can_run_is_said_so_line_by_line_and_nothing_is_made(
    tmp_path: Path, tiny_bundle: Path, still: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_site(tmp_path, tiny_bundle, still)
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", "--check", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "ok     bundle",
        "ok     detector",
        "ok     storage",
        "ok     outputs",
        "ok     camera hall",
    ]
    assert "golden check passed" in lines[0]
    assert "30 frames" in lines[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_cameras_that_are_away_are_no_failure_and_their_passwords_stay_secret(
    tmp_path: Path, tiny_bundle: Path, still: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
        server.close()
        cameras = [
            {"name": "silent", "source": f"rtsp://u:s3cret@127.0.0.1:{silent.getsockname()[1]}/a", "timeout": 0.3},
            {"name": "refused", "source": f"rtsp://u:s3cret@127.0.0.1:{closed}/a", "timeout": 0.3},
        ]
        found = findings(write_site(tmp_path, tiny_bundle, still, cameras=cameras), capsys, 0)
    assert [found[f"camera {name}"][0] for name in ("silent", "refused")] == ["away", "away"]
    assert f"rtsp://127.0.0.1:{closed}/a: " in found["camera refused"][1]
    assert "s3cret" not in str(found)


class Quiet(SimpleHTTPRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[int]:
    """Give the port of a web server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_a_camera_that_sends_sound_alone_is_away_as_the_run_goes_on_trying(
    tmp_path: Path, tiny_bundle: Path, still: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with serve(tmp_path) as port:
        cameras = [{"name": "blind", "source": f"http://127.0.0.1:{port}/sound.wav"}]
        state, text = findings(write_site(tmp_path, tiny_bundle, still, cameras=cameras), capsys, 0)["camera blind"]
    assert (state, "it carries no video; the run goes on trying" in text) == ("away", True)


def test_every_part_that_is_wrong_is_named_at_once(
    tmp_path: Path, tiny_bundle: Path, still: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_site(
        tmp_path,
        tmp_path / "nothing",
        tmp_path / "gone.mp4",
        detector={"kind": "yolox", "path": "none.onnx"},
        outputs={"events": "/proc/none/events.jsonl"},
    )
    found = findings(path, capsys, 2)
    assert {part: state for part, (state, _) in found.items()} == {
        "bundle": "wrong",
        "detector": "wrong",
        "storage": "ok",
        "outputs": "wrong",
        "camera hall": "wrong",
    }
    assert "none.onnx does not exist" in found["detector"][1]
    assert "gone.mp4 does not exist" in found["camera hall"][1]


def test_a_recording_at_full_speed_beside_one_in_real_time_is_named(
    tmp_path: Path, tiny_bundle: Path, still: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cameras = [{"name": pace, "source": str(still), "pace": pace} for pace in ("full", "realtime")]
    state, text = findings(write_site(tmp_path, tiny_bundle, still, cameras=cameras), capsys, 2)["cameras"]
    assert (state, "Set its pace to realtime" in text) == ("wrong", True)


def test_hardware_that_is_absent_is_named_though_the_camera_is_away(
    tmp_path: Path, tiny_bundle: Path, still: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reidge.edge.sources.hardware.working_device", lambda: None)
    cameras = [{"name": "hall", "source": "rtsp://127.0.0.1:9/a", "timeout": 0.3, "decode": "hardware"}]
    state, text = findings(write_site(tmp_path, tiny_bundle, still, cameras=cameras), capsys, 2)["camera hall"]
    assert (state, "decode: hardware is not to be had here" in text) == ("wrong", True)


def test_a_file_and_a_folder_in_each_others_place_are_named(
    tmp_path: Path, tiny_bundle: Path, still: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    wrong: tuple[dict[str, dict[str, str]], ...] = (
        {"outputs": {"events": "folder"}},
        {"outputs": {"events": "file/events.jsonl"}},
        {"outputs": {"events": "events.jsonl", "tracks": "file"}},
    )
    for settings in wrong:
        state, text = findings(write_site(tmp_path, tiny_bundle, still, **settings), capsys, 1)["outputs"]
        assert (state, "cannot be written" in text) == ("wrong", True)
    site = write_site(tmp_path, tiny_bundle, still, storage={"gallery": "folder"})
    assert findings(site, capsys, 1)["storage"][0] == "wrong"


def test_events_that_nobody_writes_are_not_called_stdout(
    tmp_path: Path, tiny_bundle: Path, still: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = write_site(tmp_path, tiny_bundle, still, outputs={"events": None})
    assert findings(site, capsys, 0)["outputs"] == ("ok", "events are not written")


def test_a_gallery_is_looked_at_also_while_a_reidge_runs_on_it(
    tmp_path: Path, tiny_bundle: Path, still: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from reidge.edge.bundle import Bundle

    path = write_site(tmp_path, tiny_bundle, still)
    config = GalleryConfig(min_similarity=0.5)
    gallery = Gallery(
        tmp_path / "state" / "gallery.sqlite",
        encoder_hash=Bundle.load(tiny_bundle).encoder_hash,
        embedding_dim=24,
        config=config,
    )
    assert "in use by a reidge that runs" in findings(path, capsys, 0)["bundle"][1]
    gallery.close()
    assert "0 identities are known" in findings(path, capsys, 0)["bundle"][1]


def test_a_gallery_of_another_encoder_is_named(
    tmp_path: Path, tiny_bundle: Path, still: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = GalleryConfig(min_similarity=0.5)
    Gallery(tmp_path / "state" / "gallery.sqlite", encoder_hash="f" * 64, embedding_dim=24, config=config).close()
    state, text = findings(write_site(tmp_path, tiny_bundle, still), capsys, 2)["bundle"]
    assert (state, "another encoder" in text) == ("wrong", True)


def test_a_port_is_tried_and_may_be_that_of_a_reidge_that_runs(
    tmp_path: Path, tiny_bundle: Path, still: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        path = write_site(tmp_path, tiny_bundle, still, web={"port": port})
        threading.Thread(target=hang_up, args=(other,), daemon=True).start()
        state, text = findings(path, capsys, 1)["web"]
        assert (state, "Address already in use" in text) == ("wrong", True)
    assert findings(path, capsys, 0)["web"] == ("ok", f"127.0.0.1 port {port} is free")
    with Web(WebConfig(port=port), Metrics(), health=lambda: (), ready=lambda: ()):
        assert "in use by a reidge that runs" in findings(path, capsys, 0)["web"][1]


def hang_up(server: socket.socket) -> None:
    """Be no reidge."""
    server.accept()[0].close()
