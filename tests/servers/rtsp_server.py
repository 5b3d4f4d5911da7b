"""Serves access units that were encoded before as endless streams over RTSP, each with a user of its own.

Run by the system's Python, to which GStreamer's bindings belong; no test module. Prints the port when it listens, and
takes commands from stdin, one a line: `play MOUNT FILE` goes on with another file at once, `hold MOUNT` sends no more
pictures until then. It ends with its stdin.

    /usr/bin/python3 rtsp_server.py '{"port": 0, "mounts": {"hall": {"file": ..., "user": ..., "password": ...}}}'
"""

from __future__ import annotations

import json
import sys
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PIPELINES = {
    "h264": "video/x-h264,stream-format=byte-stream,alignment=au ! rtph264pay config-interval=-1",
    "h265": "video/x-h265,stream-format=byte-stream,alignment=au ! rtph265pay config-interval=-1",
    "mjpeg": "image/jpeg,width={width},height={height} ! rtpjpegpay",
}
SOURCE = "is-live=true format=time max-buffers=50 leaky-type=downstream"
SOUND = f"appsrc name=sound do-timestamp=true {SOURCE} ! audio/x-alaw,rate=8000,channels=1 ! rtppcmapay name=pay1 pt=8"
SILENCE = bytes([0xD5]) * 80
"""10 ms of it, as A-law."""
LATE = 1_000_000_000
"""After a pause longer than these nanoseconds a stream goes on from now instead of catching up, as a camera does."""


class Footage:
    """The access units that `streams.write_stream` left: their sizes in a JSON file, their bytes beside it."""

    def __init__(self, path: Path) -> None:
        index = json.loads(path.read_text())
        data = path.with_suffix(".bin").read_bytes()
        self.pipeline: str = PIPELINES[index["codec"]].format(**index)
        self.interval = 1_000_000_000 // index["fps"]
        self.units = [data[begin:end] for begin, end in pairwise(accumulate(index["sizes"], initial=0))]


class Mount:
    """One stream: what is shown, and where in it."""

    def __init__(self, footage: Footage, skip: int = 0) -> None:
        self.footage = footage
        self.place = skip
        self.held = False

    def configure(self, _factory: object, media: Any) -> None:
        """Feed a pipeline that was just built, until it is taken down."""
        feed = Feed(self, media)
        timer = GLib.timeout_add(10, feed.push)
        media.connect("unprepared", lambda _: GLib.source_remove(timer))

    def play(self, footage: Footage) -> None:
        """Go on with the first unit of another file, which is a key frame."""
        self.footage, self.place, self.held = footage, 0, False

    def next_unit(self) -> bytes:
        """The next access unit, round and round."""
        self.place += 1
        return self.footage.units[(self.place - 1) % len(self.footage.units)]


class Feed:
    """Pushes each access unit into one pipeline when its moment has come, by the pipeline's clock."""

    def __init__(self, mount: Mount, media: Any) -> None:
        self.mount = mount
        self.source = media.get_element().get_child_by_name("source")
        self.sound = media.get_element().get_child_by_name("sound")
        self.due: int | None = None

    def push(self) -> bool:
        """Push what is due; called every few milliseconds."""
        clock, began = self.source.get_clock(), self.source.get_base_time()
        now = clock.get_time() - began if clock is not None and began else 0  # before it plays it has no time yet
        if self.sound is not None:
            self.sound.emit("push-buffer", Gst.Buffer.new_wrapped(SILENCE))
        if self.mount.held:
            self.due = None
            return True
        if self.due is None or abs(now - self.due) > LATE:
            self.due = now
        while self.due <= now:
            unit = Gst.Buffer.new_wrapped(self.mount.next_unit())
            unit.pts = unit.dts = self.due
            unit.duration = self.mount.footage.interval
            self.source.emit("push-buffer", unit)
            self.due += self.mount.footage.interval
        return True


def add_mount(server: Any, auth: Any, name: str, wanted: dict[str, Any]) -> Mount:
    """Offer one stream, to those who know its user and password."""
    mount = Mount(Footage(Path(wanted["file"])), wanted.get("skip", 0))
    basic = GstRtspServer.RTSPAuth.make_basic(wanted["user"], wanted["password"])
    role = f"role-{basic.encode().hex()}"  # one of its own for each pair; a role is named by plain letters
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", role)
    auth.add_basic(basic, token)
    factory = GstRtspServer.RTSPMediaFactory()
    sound = SOUND if wanted.get("sound") else ""
    factory.set_launch(f"( appsrc name=source {SOURCE} ! {mount.footage.pipeline} name=pay0 pt=96 {sound} )")
    factory.set_shared(True)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role(role, "media.factory.access", True)
    permissions.add_permission_for_role(role, "media.factory.construct", True)
    factory.set_permissions(permissions)
    factory.connect("media-configure", mount.configure)
    server.get_mount_points().add_factory(f"/{name}", factory)
    return mount


def main() -> None:
    """Serve until stdin is closed."""
    wanted = json.loads(sys.argv[1])
    Gst.init(None)
    loop = GLib.MainLoop()
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=str(wanted["port"]))
    auth = GstRtspServer.RTSPAuth()
    mounts = {name: add_mount(server, auth, name, mount) for name, mount in wanted["mounts"].items()}
    server.set_auth(auth)
    if not server.attach(None):
        sys.exit(f"cannot listen on port {wanted['port']}")

    def obey(stdin: Any, _condition: object) -> bool:
        line = stdin.readline()
        if not line:
            loop.quit()
            return False
        what, name, *path = line.strip().split(maxsplit=2)
        if what == "hold":
            mounts[name].held = True
        else:
            mounts[name].play(Footage(Path(*path)))
        return True

    GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, GLib.IOCondition.IN | GLib.IOCondition.HUP, obey)
    print(server.get_bound_port(), flush=True)
    loop.run()


if __name__ == "__main__":
    main()
