"""Serves folders of JPEG frames as endless H.264 streams over RTSP, with a password.

Run by the system's Python, to which GStreamer's bindings belong; no test module. Prints the port when it listens.

    /usr/bin/python3 rtsp_server.py --port 0 --user viewer --password secret hall=frames/hall:10 door=frames/door:10
"""

from __future__ import annotations

import argparse
import os

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

# multifilesrc gives each loop new timestamps; looping an H.264 file does not.
PIPELINE = (
    "( multifilesrc location={folder}/%05d.jpg start-index=0 stop-index={last} loop=true"
    " caps=image/jpeg,framerate={fps}/1 ! jpegdec ! videoconvert ! video/x-raw,format=I420"
    " ! x264enc speed-preset=ultrafast tune=zerolatency key-int-max={fps} bitrate=2000"
    " ! rtph264pay name=pay0 pt=96 config-interval=1 )"
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="0")
    parser.add_argument("--user", required=True)
    parser.add_argument("--password", required=True)
    parser.add_argument("streams", nargs="+", metavar="NAME=FOLDER:FPS")
    args = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=args.port)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(args.user, args.password), token)
    server.set_auth(auth)
    for stream in args.streams:
        name, _, rest = stream.partition("=")
        folder, _, fps = rest.rpartition(":")
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(PIPELINE.format(folder=folder, last=len(os.listdir(folder)) - 1, fps=fps))  # noqa: PTH208
        factory.set_shared(True)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("viewer", "media.factory.access", True)
        permissions.add_permission_for_role("viewer", "media.factory.construct", True)
        factory.set_permissions(permissions)
        server.get_mount_points().add_factory(f"/{name}", factory)
    assert server.attach(None), f"cannot listen on port {args.port}"
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
