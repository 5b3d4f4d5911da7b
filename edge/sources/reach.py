"""Whether a source that was lost would answer, asked at next to no cost.

A whole attempt to connect may take the source's timeout, costs the camera a login, and is therefore made ever more
rarely. This is one short connection without a login, so it can be made every second for as long as a camera is
away, and the camera is back as soon as it answers.
"""

from __future__ import annotations

import socket
from pathlib import Path

from reidge.edge.sources.address import Address

ASK_EVERY = 1.0
"""Seconds between questions: with the wait for an answer, a connection and a key frame, 4 seconds at most."""
WAIT = 1.0
"""Seconds to wait for an answer."""
GREETINGS = {
    "rtsp": "OPTIONS rtsp://{host}:{port}/ RTSP/1.0\r\nCSeq: 1\r\nUser-Agent: reidge\r\n\r\n",
    "http": "HEAD / HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: reidge\r\nConnection: close\r\n\r\n",
}
"""What a server answers whoever asks. A stopped process accepts connections, by its kernel, but says nothing."""


def answers(source: str) -> bool | None:
    """Tell whether a source answers; None where that cannot be told without connecting in earnest.

    For a device: whether it is plugged in.
    """
    if "://" not in source:
        return Path(source).exists()
    address = Address.parse(source)
    if address is None or address.listens_at is None:
        return None
    host, port = address.listens_at
    greeting = GREETINGS.get(address.scheme, "").format(host=host, port=port)
    try:
        with socket.create_connection((host, port), timeout=WAIT) as connection:
            if not greeting:
                return True
            connection.settimeout(WAIT)
            connection.sendall(greeting.encode())
            return bool(connection.recv(16))
    except (OSError, UnicodeError):
        return False
