from __future__ import annotations

import pytest

from reidge.edge.sources.address import Address, check_address


@pytest.mark.parametrize(
    "password", ["p@ss:w/rd", "a?b#c", "%40", "100%sure", "zwei Wörter", "'\"", "x", "", "/", "@", "::", "%"]
)
def test_percent_encoded_passwords_come_out_as_they_are(password: str) -> None:
    address = Address(scheme="rtsp", host="10.0.0.1", port=554, path="/a?b=c@d", user="view er", password=password)
    assert Address.parse(address.quoted) == address
    assert password not in repr(address) or password in ("", "/", ":", "::", "x", "'\"", "%", "@")


@pytest.mark.parametrize(
    ("source", "user", "password", "host", "port"),
    [
        ("rtsp://viewer:p@ss:w/rd@10.0.0.1:554/a", "viewer", "p@ss:w/rd", "10.0.0.1", 554),
        ("rtsp://u:a?b#c@cam/p", "u", "a?b#c", "cam", None),
        ("rtsp://john.doe:pw@host/s", "john.doe", "pw", "host", None),
        ("rtsp://user%40x:pw@host", "user@x", "pw", "host", None),
        ("rtsp://admin:@host/", "admin", "", "host", None),
        ("rtsp://admin@host/", "admin", None, "host", None),
        ("rtsp://[::1]:8554/x", None, None, "::1", 8554),
        ("RTSP://host:554/path@x", None, None, "host", 554),
        ("http://cam/video?user=a@b.c", None, None, "cam", None),
    ],
)
def test_addresses_as_people_write_them(
    source: str, user: str | None, password: str | None, host: str, port: int | None
) -> None:
    address = Address.parse(source)
    assert address is not None
    assert (address.user, address.password, address.host, address.port) == (user, password, host, port)
    assert address.bare.startswith((f"{address.scheme}://{host}", "rtsp://[::1]"))


def test_ports_are_those_of_the_scheme_and_only_of_what_listens() -> None:
    places = {
        source: Address.parse(source).listens_at  # type: ignore[union-attr]
        for source in ("rtsp://h/a", "https://h", "rtsp://h:9", "udp://h:9", "srt://h:9")
    }
    assert places == {
        "rtsp://h/a": ("h", 554),
        "https://h": ("h", 443),
        "rtsp://h:9": ("h", 9),
        "udp://h:9": None,
        "srt://h:9": None,
    }


@pytest.mark.parametrize("source", ["video.mp4", "rtsp://", "rtsp:///path", "rtsp://host:port/"])
def test_what_is_no_address_is_not_guessed_at(source: str) -> None:
    assert Address.parse(source) is None


@pytest.mark.parametrize(
    "source",
    ["udp://@:5000", "udp://:5000", "srt://:9000?mode=listener", "RTSP://u:p/w@h:65535/a", "a.mp4", "/dev/video0"],
)
def test_addresses_that_may_lead_somewhere_are_let_pass(source: str) -> None:
    check_address(source)
