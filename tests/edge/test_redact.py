from __future__ import annotations

import pytest

from reidge.edge.redact import UNPARSEABLE, redact, redact_text


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


def test_addresses_inside_a_text_are_redacted() -> None:
    text = "[Errno 111] refused: 'rtsp://u:pw@host/a' and rtsp://v:pw@other/b again"
    assert redact_text(text) == "[Errno 111] refused: 'rtsp://host/a' and rtsp://other/b again"
