from __future__ import annotations

from pathlib import Path

import pytest

from reidge.edge.errors import InputError
from reidge.edge.redact import redact_text
from reidge.edge.site import load_site

MINIMAL = """
bundle: bundle
cameras:
  - {name: cam1, source: videos/cam1.mp4}
  - {name: cam2, source: "rtsp://viewer:${CAMERA_PASSWORD}@host/stream"}
"""


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "secret")


def write(folder: Path, text: str = MINIMAL) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    extra = (
        "storage: {gallery: g.sqlite}\noutputs: {events: e.jsonl, tracks: t}\ndetector: {kind: yolox, path: d.onnx}\n"
    )
    site = load_site(write(tmp_path, MINIMAL + extra))
    assert site.bundle == tmp_path / "bundle"
    assert site.cameras[0].source == str(tmp_path / "videos/cam1.mp4")
    assert site.storage.gallery == str(tmp_path / "g.sqlite")
    assert (site.outputs.events, site.outputs.tracks) == (str(tmp_path / "e.jsonl"), tmp_path / "t")
    assert site.detector.kind == "yolox"
    assert site.detector.path == tmp_path / "d.onnx"


def test_the_path_of_an_exported_detector_starts_at_the_file_too(tmp_path: Path) -> None:
    site = load_site(write(tmp_path, MINIMAL + "detector: {kind: bundle, path: detector, precision: int8}\n"))
    assert site.detector.kind == "bundle"
    assert (site.detector.path, site.detector.precision) == (tmp_path / "detector", "int8")


def test_secrets_come_from_the_environment(tmp_path: Path) -> None:
    assert load_site(write(tmp_path)).cameras[1].source == "rtsp://viewer:secret@host/stream"


def test_a_variable_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAMERA_PASSWORD")
    with pytest.raises(InputError, match="environment variable CAMERA_PASSWORD is not set"):
        load_site(write(tmp_path))


def test_a_variable_may_have_a_default(tmp_path: Path) -> None:
    site = load_site(write(tmp_path, MINIMAL.replace("bundle: bundle", "bundle: ${NOT_SET_ANYWHERE:-other}")))
    assert site.bundle == tmp_path / "other"


def test_overrides_replace_what_the_file_says(tmp_path: Path) -> None:
    site = load_site(write(tmp_path), ["cameras.0.pace=realtime", "identity.min_similarity=0.5", "outputs.events=null"])
    assert site.cameras[0].pace == "realtime"
    assert site.identity.min_similarity == 0.5
    assert site.outputs.events is None


def test_a_recording_may_begin_at_an_iso_time(tmp_path: Path) -> None:
    assert load_site(write(tmp_path), ["cameras.0.start=1970-01-01T00:01:00Z"]).cameras[0].start == 60.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trackin.max_age=1", r"site\.yaml: unknown key 'trackin'\. Did you mean 'tracking'\?"),
        ("tracking.max_ages=1", r"unknown key 'tracking\.max_ages'\. Did you mean 'max_age'\?"),
        ("cameras.0.zzz=x", r"unknown key 'cameras\.0\.zzz'\. Known here: .*source"),
        ("detector.kind=magic", r"detector: kind must be one of motion, .*, not 'magic'\.$"),
        ("detector={kind: motion, min_heigth: 1}", r"min_heigth'\. Did you mean 'min_height'\?"),
        ("tracking.max_age=-1", r"tracking\.max_age: .*greater than 0 \(got -1\)"),
        ("cameras.0.name=a b", r"cameras\.0\.name: must be letters, digits and any of _ \. - after.* \(got 'a b'\)"),
        ("cameras.1.max_fps=many", r"camera cam2: cameras\.1\.max_fps: must be a number \(got 'many'\)"),
        ("cameras.1.masks=[[0.8, 0, 1]]", r"camera cam2: cameras\.1\.masks\.0\.0: must be a list \(got 0\.8\)"),
        ("cameras.1.region=[[0, 0], [1, 1]]", r"camera cam2: cameras\.1\.region: must have at least 3 entries"),
        ("cameras.1.region=[[0], [1, 1], [0, 1]]", r"camera cam2: cameras\.1\.region\.0\.1: is missing"),
        ("web={token: short}", r"web\.token: must have at least 16 characters\.$"),
        ("web={host: 0.0.0.0}", r"yaml: web: 0\.0\.0\.0 is reached by other machines"),
        ("detector={kind: yolo, path: a}", r"detector: kind must be one of .*not 'yolo'\. Did you mean 'yolox'\?$"),
        ("detector={path: a}", r"the key 'detector\.kind' is missing"),
        ("outputs.mqtt={host: h, site: a/b}", r"outputs\.mqtt\.site: must be text without / # and \+ \(got 'a/b'\)"),
        ("cameras.1.name=cam1", "two cameras are named 'cam1'"),
        ("cameras.0.overlaps=[cam9]", "overlaps 'cam9', which is no camera"),
        ("cameras.0.moves=true", r"cam1 moves, and to the motion detector .* Use another detector"),
        ("transit=[{between: [cam1, cam9], seconds: [1, 2]}]", "transit is said for 'cam9', which is no camera"),
        ("transit=[{between: [cam1, cam2], seconds: [5, 2]}]", "the least and the most"),
        ("transit=[{between: [cam1, cam2], seconds: [-1, 2]}]", "seconds must be at least 0"),
        ("transit=[{between: [cam1, cam1], seconds: [1, 2]}]", "between are two cameras, got cam1 twice"),
        (
            "transit=[{between: [cam1, cam2], seconds: [1, 2]}, {between: [cam2, cam1], seconds: [1, 3]}]",
            "transit is said twice for cam2 and cam1",
        ),
        ("cameras.0.overlaps=[cam1]", "cam1 overlaps itself"),
        ("cameras=[]", r"cameras: must have at least 1 entry\."),
        ("cameras.0.source=rstp://u:secret@host/a", r"camera cam1: unknown scheme rstp\. Did you mean rtsp\?"),
        ("cameras.0.source=gopher://host/a", r"camera cam1: unknown scheme gopher\. Known here: http, "),
        ("cameras.0.source=rtsp:///a", "camera cam1: its address names no host"),
        ("cameras.0.source=rtsp://viewer:secret@/", "camera cam1: its address names no host"),
        ("cameras.0.source=rtsp://viewer:secret@host:99999/a", r"camera cam1: its address has port 99999\. Give one "),
        ("cameras.0.source=rtsp://host:0/a", "camera cam1: its address has port 0"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_site(write(tmp_path), [override])
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no settings"),
        ("- a", "has no settings"),
        ("a: [", "is not YAML"),
        pytest.param("[" * 5000, "is not YAML: RecursionError", id="deep"),
        ("bundle: &itself {more: *itself}", "holds itself"),
    ],
)
def test_a_file_without_settings_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_site(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"site\.yaml cannot be read"):
        load_site(tmp_path / "site.yaml")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the key 'bundle' is missing"):
        load_site(write(tmp_path, "cameras: [{name: a, source: b.mp4}]"))


def test_a_misspelt_key_is_named_rather_than_the_missing_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown key 'bundel'\. Did you mean 'bundle'\?"):
        load_site(write(tmp_path, MINIMAL.replace("bundle: bundle", "bundel: bundle")))


def test_the_example_is_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CAMERA_1", "CAMERA_2"):
        monkeypatch.setenv(name, "rtsp://host/stream")
    for name in ("BUNDLE", "DETECTOR", "OUTPUT"):
        monkeypatch.setenv(name, str(tmp_path))
    site = load_site(Path(__file__).parents[2] / "examples" / "rtsp.yaml")
    assert [camera.name for camera in site.cameras] == ["cam1", "cam2"]
    assert site.outputs.tracks is None  # a live site would write them for ever


ADDRESS = "rtsp://viewer:secret@host/stream"


@pytest.mark.parametrize(
    ("text", "override"),
    [
        (f"bundle: b\ncameras: ['{ADDRESS}']", None),
        (f"bundle: b\ncameras: [{{name: a, source: '{ADDRESS}' b}}]", None),
        (MINIMAL, f"cameras.9.source={ADDRESS}"),
        (MINIMAL, f"cameras.0.source=[{ADDRESS}"),
        (MINIMAL, ADDRESS),
        (MINIMAL, f"cameras.0.pace={ADDRESS}"),
    ],
)
def test_no_wrong_setting_shows_a_password(tmp_path: Path, text: str, override: str | None) -> None:
    with pytest.raises(InputError) as caught:
        load_site(write(tmp_path, text), [] if override is None else [override])
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "bundle: b\ncameras: []\npassword: top-secret: x",
        "bundle: b\ncameras: [{name: a, source: s, password: top-secret}]",
        "bundle: b\ncameras: [{name: a, source: s, token: [top-secret]}]",
        "bundle: b\ncameras: [{name: a, source: s, start: top-secret}]\npassword: top-secret",
    ],
)
def test_a_secret_beside_a_mistake_is_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as caught:
        load_site(write(tmp_path, text))
    assert "top-secret" not in redact_text(str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_password_within_the_name_of_the_broker_is_refused_and_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "outputs: {mqtt: {host: 'viewer:s3cretPassw0rd@broker.invalid'}}\n")
    with pytest.raises(InputError, match="host must be a name or an IP address alone") as caught:
        load_site(path)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("host", ["mqtt://broker.invalid", "broker.invalid/s3cret", "s3cret@broker.invalid", "a b"])
def test_an_address_is_no_name_of_a_broker(tmp_path: Path, host: str) -> None:
    with pytest.raises(InputError, match="host must be a name or an IP address alone") as caught:
        load_site(write(tmp_path, MINIMAL + f"outputs: {{mqtt: {{host: '{host}'}}}}\n"))
    assert host not in str(caught.value)


@pytest.mark.parametrize("host", ["broker.example", "10.0.0.7", "::1", "fe80::1%eth0", "my_broker"])
def test_names_and_ip_addresses_are_brokers(tmp_path: Path, host: str) -> None:
    site = load_site(write(tmp_path, MINIMAL + f"outputs: {{mqtt: {{host: '{host}'}}}}\n"))
    assert site.outputs.mqtt is not None
    assert site.outputs.mqtt.host == host


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("outputs: {rotation: {max_mib: .inf}}", "outputs.rotation.max_mib"),
        ("outputs: {mqtt: {host: broker, spool_mib: .inf}}", "outputs.mqtt.spool_mib"),
        ('outputs: {events: "a\\0b"}', "outputs.events"),
        ('detector: {kind: yolox, path: "a\\0b"}', "detector.path"),
    ],
)
def test_what_would_break_later_is_refused_now(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(InputError, match=key):
        load_site(write(tmp_path, f"{MINIMAL}{text}\n"))


def test_a_broken_file_is_refused_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not YAML: mapping values are not allowed here in line 2, column 12"):
        load_site(write(tmp_path, "bundle: b\npassword: x: y"))


def test_a_password_from_a_file_reaches_the_camera(tmp_path: Path) -> None:
    (tmp_path / "cam1").write_text("p@ss:w/rd\n")
    (tmp_path / "cam1").chmod(0o600)
    site = load_site(write(tmp_path), ["cameras.0.source=rtsp://viewer:${file:cam1}@host/stream"])
    assert site.cameras[0].source == "rtsp://viewer:p%40ss%3Aw%2Frd@host/stream"
