from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from reidge.edge.site import load_site

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_for_recordings_is_a_site_file() -> None:
    site = load_site(EXAMPLES / "files.yaml")
    assert [camera.name for camera in site.cameras] == ["cam1", "cam2"]
    assert site.bundle == EXAMPLES / "bundle"
    assert site.cameras[0].start == site.cameras[1].start == 1780300800.0


def test_the_example_for_a_service_is_a_site_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("hall", "door", "mqtt"):
        (secrets / name).write_text("p@ss:w/rd\n")
        (secrets / name).chmod(0o600)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secrets))
    site = load_site(EXAMPLES / "service.yaml")
    assert site.cameras[0].source == "rtsp://viewer:p%40ss%3Aw%2Frd@192.168.1.11/stream"
    assert site.outputs.mqtt is not None
    assert site.outputs.mqtt.spool == Path("/var/lib/reidge/spool")
    assert site.web is not None


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(EXAMPLES / "reidge.service")
    return parser


def test_the_unit_leaves_the_process_the_time_that_it_promises_to_need() -> None:
    service, site = unit()["Service"], yaml.safe_load((EXAMPLES / "service.yaml").read_text())
    assert service["Type"] == "notify"
    assert int(service["TimeoutStopSec"]) > 5
    assert int(service["WatchdogSec"]) > site["watchdog"]["seconds"]
    assert service["RestartPreventExitStatus"] == "2"
    kept = [site["storage"]["gallery"], site["outputs"]["events"], site["outputs"]["mqtt"]["spool"]]
    assert all(path.startswith(f"/var/lib/{service['StateDirectory']}/") for path in kept)
    assert service["Environment"] == f"REIDGE_CACHE=/var/cache/{service['CacheDirectory']}"


def test_the_unit_brings_every_secret_that_the_site_file_asks_for() -> None:
    asked = re.findall(r"\$\{CREDENTIALS_DIRECTORY\}/(\w+)", (EXAMPLES / "service.yaml").read_text())
    lines = (EXAMPLES / "reidge.service").read_text().splitlines()
    brought = [
        found[1] for line in lines if (found := re.fullmatch(r"LoadCredential=(\w+):/etc/reidge/secrets/\1", line))
    ]
    assert sorted(asked) == sorted(brought) == ["door", "hall", "mqtt"]


def test_the_user_of_unit_and_image_is_made() -> None:
    set_up = (EXAMPLES.parent / "docs" / "deployment.md").read_text()
    assert re.search(rf"^useradd --system .* {unit()['Service']['User']}$", set_up, re.M)
    image = (EXAMPLES / "jetpack6.Containerfile").read_text()
    (number,) = re.findall(r"useradd --system --uid (\d+) ", image)
    assert f"chown -R {number} /etc/reidge/secrets" in image


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    # The command need not be here, and neither need the user.
    text = (EXAMPLES / "reidge.service").read_text().replace("/opt/reidge/bin/reidge", shutil.which("true") or "true")
    (tmp_path / "reidge.service").write_text(re.sub(r"User=\w+", "User=root", text))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "reidge.service"], capture_output=True, text=True
    )
    ours = [line for line in found.stderr.splitlines() if "reidge.service" in line]
    assert ours == []
    assert found.returncode == 0


def test_the_image_for_jetpack_runs_without_root_and_keeps_state_and_cache() -> None:
    lines = (EXAMPLES / "jetpack6.Containerfile").read_text().splitlines()
    told = [line.split(maxsplit=1) for line in lines if line and not line.startswith(("#", " "))]
    words = {name: value for name, value in told if name != "RUN"}
    assert words["FROM"].startswith("nvcr.io/nvidia/l4t-jetpack:r36.4")
    assert words["USER"] == "reidge"
    assert words["STOPSIGNAL"] == "SIGTERM"
    assert words["ENV"] == "REIDGE_CACHE=/var/cache/reidge"
    assert words["VOLUME"] == '["/var/lib/reidge", "/var/cache/reidge"]'
    assert "--system-site-packages" in " ".join(lines)  # TensorRT and gi belong to JetPack
    assert words["CMD"] == '["run", "/etc/reidge/site.yaml"]'
