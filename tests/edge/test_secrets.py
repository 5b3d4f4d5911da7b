from __future__ import annotations

import json
import logging
from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import pytest

from reidge.cli.main import main
from reidge.edge.errors import InputError
from reidge.edge.redact import MARK, redact_text
from reidge.edge.secrets import MAX_BYTES, fill_in

if TYPE_CHECKING:
    from pathlib import Path

PASSWORDS = ("p@ss:w/rd", "a?b#c", "%40", "two words", "päßwörd", "quo'te\"s", "x", "${HOME}", "$$", "://", "[::1]")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Where the site file would be."""
    return tmp_path / "site.yaml"


def write_secret(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(text.encode())
    path.chmod(mode)
    return path


def test_variables_and_their_defaults_are_put_in(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "hall")
    values = {"cameras": [{"name": "${PLACE}-1"}], "bundle": "${NOWHERE_SET:-b}/${PLACE}", "fps": 5, "none": None}
    assert fill_in(values, site) == {"cameras": [{"name": "hall-1"}], "bundle": "b/hall", "fps": 5, "none": None}


def test_two_dollars_stand_for_one(site: Path) -> None:
    assert fill_in("$${HOME} $5 $$", site) == "${HOME} $5 $$"


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_file_gives_its_one_line(site: Path, password: str, ending: str) -> None:
    path = write_secret(site.parent, password + ending)
    assert fill_in(f"${{file:{path}}}", site) == password
    assert fill_in("${file:secret}", site) == password  # beside the site file
    assert fill_in({"password_file": "secret"}, site) == {"password": password}


def test_of_a_secret_and_its_file_the_one_that_is_null_gives_way(site: Path) -> None:
    write_secret(site.parent, "hidden")
    assert fill_in({"password": "other", "password_file": None}, site) == {"password": "other"}
    for values in ({"password": None, "password_file": "secret"}, {"password_file": "secret", "password": None}):
        assert fill_in(values, site) == {"password": "hidden"}
    assert fill_in({"user": "box", "password_file": None}, site) == {"user": "box"}
    assert fill_in({"token": None}, site) == {"token": None}


def test_a_file_may_lie_where_a_service_manager_says(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_secret(site.parent, "hidden")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(site.parent))
    assert fill_in("${file:${CREDENTIALS_DIRECTORY}/secret}", site) == "hidden"


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("form", ["${CAM_PW}", "${file:secret}"])
def test_a_password_survives_its_way_through_an_address(
    site: Path, monkeypatch: pytest.MonkeyPatch, password: str, form: str
) -> None:
    monkeypatch.setenv("CAM_PW", password)
    write_secret(site.parent, password)
    address = urlsplit(fill_in(f"rtsp://viewer:{form}@host:554/live", site))
    assert (address.hostname, address.port, address.path) == ("host", 554, "/live")
    assert unquote(address.password or "") == password


def test_a_whole_address_and_what_is_no_password_stay_as_they_are(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA", "rtsp://viewer:p%40ss@host/live/1")
    monkeypatch.setenv("ROAD", "live/1")
    assert fill_in("${CAMERA}", site) == "rtsp://viewer:p%40ss@host/live/1"
    assert fill_in("rtsp://viewer:pw@host/${ROAD}", site) == "rtsp://viewer:pw@host/live/1"


@pytest.mark.parametrize(
    "values",
    [
        {"source": "${file:secret}"},
        {"password_file": "secret"},
        {"source": "rtsp://viewer:${file:secret}@host/live"},
        {"source": "rtsp://viewer:${PLAIN_NAME}@host/live"},
        {"other": "${MQTT_PASSWORD}"},
        {"password": "${PLAIN_NAME}"},
        {"password": "top-secret@1"},
        {"source": "rtsp://viewer:top-secret@1@host/live"},
    ],
)
def test_what_came_from_a_secret_comes_out_nowhere(
    site: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, str]
) -> None:
    write_secret(site.parent, "top-secret@1")
    monkeypatch.setenv("PLAIN_NAME", "top-secret@1")
    monkeypatch.setenv("MQTT_PASSWORD", "top-secret@1")
    fill_in({"outer": [values]}, site)
    for form in ("top-secret@1", "top-secret%401"):
        assert redact_text(f"login with {form} failed") == f"login with {MARK} failed"


def test_a_whole_address_from_a_file_hides_its_password_and_no_other_word(site: Path) -> None:
    write_secret(site.parent, "rtsp://viewer:p%40ss-word@nvr:8554/hall")
    assert fill_in({"source": "${file:secret}"}, site) == {"source": "rtsp://viewer:p%40ss-word@nvr:8554/hall"}
    for form in ("p%40ss-word", "p@ss-word", b64encode(b"viewer:p@ss-word").decode()):
        assert redact_text(f"login with {form} failed") == f"login with {MARK} failed"
    told = "camera hall: rtsp://viewer:p%40ss-word@nvr:8554/hall: viewer may not see port 8554"
    assert redact_text(told) == "camera hall: rtsp://nvr:8554/hall: viewer may not see port 8554"


@pytest.mark.parametrize(
    "values",
    [{"password": "${file:secret}"}, {"password_file": "secret"}, {"source": "rtsp://viewer:${file:secret}@host/live"}],
)
def test_a_password_that_looks_like_an_address_is_hidden_all_the_same(site: Path, values: dict[str, str]) -> None:
    write_secret(site.parent, "open://sesame-42")
    fill_in(values, site)
    assert redact_text("login with sesame-42 failed") == f"login with {MARK} failed"


def test_what_is_no_secret_may_be_shown(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUNDLE", "/data/bundle")
    fill_in({"bundle": "${BUNDLE}", "source": "rtsp://viewer:hidden-one@host/live"}, site)
    assert redact_text("/data/bundle has no manifest") == "/data/bundle has no manifest"


def test_a_secret_that_everybody_may_read_is_warned_about(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_secret(site.parent, "hidden", mode=0o644)
    with caplog.at_level(logging.WARNING):
        fill_in("${file:secret}", site)
    assert caplog.messages == [
        f"{site}: every user of this machine may read the secret in {path}. Run: chmod 600 {path}"
    ]
    caplog.clear()
    path.chmod(0o640)
    fill_in("${file:secret}", site)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("one\ntwo\n", "holds more than one line"),
        ("nul\0", "holds more than one line"),
        ("x" * (MAX_BYTES + 1), "holds more than one line"),
    ],
)
def test_a_file_that_holds_no_secret_is_one_line(site: Path, content: str, message: str) -> None:
    path = write_secret(site.parent, content)
    with pytest.raises(InputError, match=message) as caught:
        fill_in({"password_file": "secret"}, site)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "two" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(site: Path) -> None:
    with pytest.raises(InputError, match=r"secret's file .*/nowhere cannot be read: No such file or directory"):
        fill_in("${file:nowhere}", site)
    (site.parent / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        fill_in("${file:folder}", site)
    (site.parent / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not text in UTF-8"):
        fill_in("${file:binary}", site)


def test_a_variable_that_is_not_set_is_named(site: Path) -> None:
    with pytest.raises(InputError, match=r"environment variable NOT_SET is not set\. Set it or write \$\{NOT_SET:-"):
        fill_in("${NOT_SET}", site)


def test_one_secret_given_twice_is_refused(site: Path) -> None:
    write_secret(site.parent, "hidden")
    with pytest.raises(InputError, match="both password and password_file are set"):
        fill_in({"password": "other", "password_file": "secret"}, site)


SITE = """
bundle: {bundle}
cameras:
  - {{name: filed, source: "rtsp://viewer:${{file:secret}}@127.0.0.1:9/live"}}
  - {{name: named, source: "rtsp://viewer:${{CAM_PW}}@127.0.0.1:9/live"}}
  - {{name: whole, source: "${{WHOLE}}"}}
outputs: {{events: events.jsonl, mqtt: {{host: 127.0.0.1, port: 9, user: box, password_file: secret}}}}
"""


@pytest.mark.parametrize("mistake", ["", "cameras.1.region=[]", "outputs.mqtt.port=none", "bundle=${CAM_PW}"])
@pytest.mark.parametrize("password", ["p@ss:w/rd", "a?b#c", "%40%41", "two words", "päßwörd", "quo'te\"s"])
def test_neither_a_check_nor_a_mistake_shows_a_password(
    site: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mistake: str,
    password: str,
) -> None:  # fmt: skip
    site.write_text(SITE.format(bundle=tiny_bundle))
    write_secret(site.parent, password, mode=0o644)
    monkeypatch.setenv("CAM_PW", password)
    monkeypatch.setenv("WHOLE", f"rtsp://viewer:{quote(password, safe='')}@127.0.0.1:9/live")
    overrides = ["--set", mistake] if mistake else []
    status = main(["run", "--check", str(site), "--log", "json", *overrides])
    assert status == (2 if mistake else 0)
    out, err = capsys.readouterr()
    assert f"every user of this machine may read the secret in {site.parent}/secret" in err
    if not mistake:
        assert "away   camera filed: rtsp://127.0.0.1:9/live: " in out
    shown = out + err
    for form in (password, quote(password), quote(password, safe=""), json.dumps(password)[1:-1], repr(password)[1:-1]):
        assert form not in shown


def test_a_file_of_no_secret_stays_a_setting(site: Path) -> None:
    assert fill_in({"key_file": "k.pem", "ca_file": "ca.pem"}, site) == {"key_file": "k.pem", "ca_file": "ca.pem"}
