"""An RTSP server of the test's own, and its address."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

SYSTEM_PYTHON = "/usr/bin/python3"  # GStreamer's bindings are a package of the system
SCRIPT = Path(__file__).with_name("rtsp_server.py")
ELEMENTS = ["appsrc", "rtph264pay", "rtph265pay", "rtpjpegpay"]
PACKAGES = "gir1.2-gst-rtsp-server-1.0 and gstreamer1.0-plugins-{base,good}"


@cache
def has_gstreamer() -> bool:
    """Whether the system can serve RTSP."""
    probe = (
        "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
        f"Gst.init(None); assert all(map(Gst.ElementFactory.find, {ELEMENTS}))"
    )
    if not Path(SYSTEM_PYTHON).exists():
        return False
    return subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True).returncode == 0


def need_gstreamer() -> None:
    """Skip a test where it is absent."""
    if not has_gstreamer():
        pytest.skip(f"needs the Debian packages {PACKAGES}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A stream to serve: what `write_stream` wrote, and who may see it."""

    file: Path
    user: str = "viewer"
    password: str = "p@ss:w/rd"
    skip: int = 0
    """Access units to begin with."""
    sound: bool = False
    """Whether sound goes beside the pictures, also where they stop."""


class RtspServer:
    """A server process for some streams, listening on one port for as long as the object lives; use it in a `with`."""

    def __init__(self, mounts: Mapping[str, Mount], port: int = 0) -> None:
        self.mounts = dict(mounts)
        self.port = port
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def process(self) -> subprocess.Popen[str]:
        """The running server."""
        assert self._process is not None, "the server is not running"
        return self._process

    def start(self) -> None:
        """Listen; a second start takes the port of the first."""
        mounts = {name: _wanted(mount) for name, mount in self.mounts.items()}
        command = [SYSTEM_PYTHON, str(SCRIPT), json.dumps({"port": self.port, "mounts": mounts})]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """End it as a power cut would; whoever connects then is refused."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def stall(self) -> None:
        """Stop the process: connections stay open and nothing comes."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a stall."""
        self.process.send_signal(signal.SIGCONT)

    def play(self, name: str, file: Path) -> None:
        """Go on with another file in mid-stream."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"play {name} {file}\n")

    def hold(self, name: str) -> None:
        """Send no more pictures, until `play`."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"hold {name}\n")

    def address(self, name: str, *, port: int | None = None, password: str | None = None) -> str:
        """The address of a stream with user and password in it, as a site file has it."""
        mount = self.mounts[name]
        secret = quote(mount.password if password is None else password, safe="")
        return f"rtsp://{quote(mount.user, safe='')}:{secret}@127.0.0.1:{port or self.port}/{name}"


def _wanted(mount: Mount) -> dict[str, Any]:
    return {
        "file": str(mount.file),
        "user": mount.user,
        "password": mount.password,
        "skip": mount.skip,
        "sound": mount.sound,
    }
