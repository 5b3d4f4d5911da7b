from __future__ import annotations

import html
import json
import random
import re
import time
from base64 import b64encode
from urllib.parse import quote, quote_plus

import pytest

from reidge.edge.redact import (
    KNOWN,
    MARK,
    UNPARSEABLE,
    is_secret_name,
    redact,
    redact_text,
    remember_address,
    remember_secret,
)

AWKWARD = (
    "p@ss:w/rd", "a?b#c", "%40%40at", "two words", "päßwörd", "パスワード", "quo'te", 'dou"ble', "back\\slash",
    "new\nline", "a&b=c;d", "<script>", "$(shell)", "{curly}", "[brackets]", "://address", "...@@@///", "😀emoji😀",
    "+plus+", "`tick`", "e=mc^2|", "correct horse battery staple",
)  # fmt: skip
SHORT = ("a", "7", "x7", "a?", "pw!", "%40")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://host/stream", "rtsp://host/stream"),
        ("rtsp://user:pw@host:554/stream", "rtsp://host:554/stream"),
        ("rtsp://john.doe:pw@host", "rtsp://host"),
        ("rtsp://user%40x:pw@host/a", "rtsp://host/a"),
        ("rtsp://admin:@host/a", "rtsp://host/a"),
        ("rtsp://admin:p@ss@host/a", "rtsp://host/a"),
        ("rtsp://admin:p/a:s@host/a", "rtsp://host/a"),
        ("rtsp://host/a?user=u&password=pw", "rtsp://host/a"),
        ("rtsp://host/user=admin&password=pw&channel=1", "rtsp://host"),
        ("rtsp://host/cam/user=admin_password=pw_channel=1/x", "rtsp://host/cam"),
        ("rtsp://admin:pw@[fe80::1]:554/a", "rtsp://[fe80::1]:554/a"),
        ("rtsp://host/a?token=pw@rest", UNPARSEABLE),
        ("rtsp://admin:pw?@host/a", UNPARSEABLE),
        ("rtsp://admin:pw", UNPARSEABLE),
        ("rtsp://admin:pw@", UNPARSEABLE),
        ("admin:pw@host/stream", UNPARSEABLE),
        ("videos/cam1.mp4", "videos/cam1.mp4"),
        ("C:/videos/a@b.mp4", UNPARSEABLE),
    ],
)
def test_no_secret_is_shown(source: str, shown: str) -> None:
    assert redact(source) == shown
    assert "pw" not in redact(source)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "[Errno 111] refused: 'rtsp://u:pw@host/a' and rtsp://v:pw@other/b again",
            "[Errno 111] refused: 'rtsp://host/a' and rtsp://other/b again",
        ),
        ("(rtsp://u:pw@host), https://host/a.", "(rtsp://host), https://host/a."),
        ("'rtsp://u:12 pw@host/a' no", f"'{UNPARSEABLE} no"),
        ("one\nrtsp://u:pw@host/a\nmail@host", "one\nrtsp://host/a\nmail@host"),
        ("connect user=viewer password=pw now", f"connect user=viewer password={MARK} now"),
        ("rtspsrc user-id=viewer user-pw=pw ! queue", f"rtspsrc user-id=viewer user-pw={MARK} ! queue"),
        ("{'password': 'p \\' pw', 'port': 1}", f"{{'password': {MARK}, 'port': 1}}"),
        ('{"token": "pw", "port": 1}', f'{{"token": {MARK}, "port": 1}}'),
        ("a.mp4 is no video. Give an rtsp:// address.", "a.mp4 is no video. Give an rtsp:// address."),
        ("rtsp:// u:pw@host", UNPARSEABLE),
        ("the key 'password' is missing", "the key 'password' is missing"),
        ("outputs.mqtt.password: Input should be text", "outputs.mqtt.password: Input should be text"),
    ],
)
def test_secrets_inside_a_text_are_found_by_their_form(text: str, shown: str) -> None:
    assert redact_text(text) == shown


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *(
            (name, True)
            for name in ("password", "MQTT_TOKEN", "CAMERA_1_PASSWORD", "camera-pw", "PASSWORD2", "api_key")
        ),
        *((name, False) for name in ("compass", "tracks", "path", "passage", "monkey", "keyframes", "tokenizer")),
    ],
)
def test_names_tell_which_settings_are_secret(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret


def disguises(secret: str) -> list[str]:
    """What libraries make of a text before they print it."""
    return [
        secret,
        quote(secret),
        quote(secret, safe=""),
        re.sub(r"%..", lambda found: found.group().lower(), quote(secret, safe="")),
        quote_plus(secret),
        quote(quote(secret, safe=""), safe=""),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        ascii(secret)[1:-1],
        repr(secret.encode())[2:-1],
        html.escape(secret),
        html.escape(secret, quote=False),
        secret.replace("'", "\\'").replace('"', '\\"'),
        secret.replace("@", "%40"),
    ]


@pytest.mark.parametrize("secret", AWKWARD)
def test_a_known_secret_is_hidden_in_every_disguise(secret: str) -> None:
    remember_secret(secret)
    for form in disguises(secret):
        assert redact_text(f"before <{form}> after") == f"before <{MARK}> after"


def test_random_secrets_are_hidden_in_every_disguise() -> None:
    rng = random.Random(0)
    alphabet = "abcXYZ019 @:/?#&=%+;,.-_~!$'\"()*[]{}<>\\|^`\täß\u00a0語😀"
    for _ in range(100):
        secret = "".join(rng.choices(alphabet, k=rng.randint(4, 24)))
        KNOWN.forget()
        remember_secret(secret)
        for form in disguises(secret):
            assert redact_text(f"<{form}>").count(form) == 0, (secret, form)


@pytest.mark.parametrize("password", [password for password in [*AWKWARD, *SHORT] if "\n" not in password])
def test_an_address_never_shows_its_password(password: str) -> None:
    address = f"rtsp://viewer:{password}@host:554/live"
    assert redact(address) in ("rtsp://host:554/live", UNPARSEABLE)
    shown = redact_text(f"cannot open '{address}': refused")
    ends = (f"{start}{tail}" for start in ("rtsp://host:554/live", UNPARSEABLE) for tail in ("': refused", " refused"))
    assert shown.removeprefix("cannot open '") in ends


@pytest.mark.parametrize("password", SHORT)
def test_a_short_secret_is_hidden_where_a_password_stands_and_spares_other_words(password: str) -> None:
    remember_secret(password)
    assert redact_text(f"login viewer:{password} failed") == f"login viewer:{MARK} failed"
    assert redact_text("a 7 x7 camera took 17 s") == "a 7 x7 camera took 17 s"


def test_parts_that_a_parser_cuts_out_of_a_secret_are_hidden() -> None:
    remember_secret("first@second:third/fo")
    # What stands between user and host once `@` and `:` were taken for ends of the password.
    assert redact_text("cannot resolve second: port 'third/fo' is no number") == (
        f"cannot resolve {MARK}: port '{MARK}/fo' is no number"
    )


def test_a_secret_that_is_cut_off_is_hidden_as_far_as_it_goes() -> None:
    remember_secret("correct-horse-battery")
    assert redact_text("'correct-horse-b...' tried") == f"'{MARK}' tried"
    assert redact_text("the correct answer") == "the correct answer"  # too little of it to be it


def test_an_address_gives_its_secrets_away_to_be_remembered() -> None:
    remember_address("rtsp://viewer:p%40ssword@host/live?token=abcdefg&channel=1000")
    sent = b64encode(b"viewer:p@ssword").decode()
    shown = redact_text(f"401 for p%40ssword, p@ssword, {sent}, abcdefg on channel 1000 of viewer")
    assert shown == f"401 for {MARK}, {MARK}, {MARK}, {MARK} on channel 1000 of viewer"


def test_a_whole_secret_goes_before_another_that_is_its_beginning() -> None:
    remember_secret("hunter")
    remember_secret("hunter-2000-x")
    assert redact_text("<hunter-2000-x> <hunter>") == f"<{MARK}> <{MARK}>"


@pytest.mark.parametrize("unit", ["x", "://", "a://", "@", "password=", "'", "\\", '"token": "', "x@y:z "])
def test_a_long_text_takes_no_time(unit: str) -> None:
    remember_secret("x@y:z/longer")
    began = time.process_time()
    redact_text(unit * (20_000 // len(unit)))
    assert time.process_time() - began < 2  # a search that takes the square of the length needs a minute
