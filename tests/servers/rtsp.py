"""An RTSP server on loopback, Debian's GStreamer in a process of its own, which tests start, stall and kill."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

__all__ = ["GSTREAMER_PYTHON", "RtspServer", "free_port"]

# Debian's bindings are for its own Python, not for that of the virtual environment.
GSTREAMER_PYTHON = "/usr/bin/python3"
_ENCODERS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max={fps} ! rtph264pay config-interval=1",
    "mjpeg": "videoconvert ! video/x-raw,format=I420 ! jpegenc ! rtpjpegpay",
}


def free_port() -> int:
    """Return a TCP port on which nothing listens, and which the system gives to no other socket meanwhile."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class RtspServer:
    """An RTSP server at `url`; its settings may be changed between `kill` and `start`, its port stays.

    Attributes:
        size: (height, width) of the frames.
        fps: frames per second.
        codec: `h264` or `mjpeg`.
        pictures: folder of pictures `00000.png`, `00001.png`, … of `size`, sent in a loop; None for a moving ball.
    """

    def __init__(
        self,
        size: tuple[int, int] = (120, 160),
        fps: int = 25,
        *,
        codec: str = "h264",
        pictures: Path | None = None,
        start: bool = True,
    ) -> None:
        self.size, self.fps, self.codec, self.pictures = size, fps, codec, pictures
        self._port = free_port()
        self.url = f"rtsp://127.0.0.1:{self._port}/live"
        self._process: subprocess.Popen[str] | None = None
        if start:
            self.start()

    def __enter__(self) -> "RtspServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server and wait until it listens."""
        # It ends when its standard input ends, thus also with a test process that is killed.
        self._process = subprocess.Popen(
            [GSTREAMER_PYTHON, "-I", __file__, str(self._port), self._pipeline()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", "the RTSP server did not start"

    def kill(self) -> None:
        """Kill the server; its connections are closed, also those of a stalled one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def restart(self) -> None:
        """Kill the server and start it again on the same port."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop the process wherever it is, also in the middle of a frame; connections stay open."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue a paused server."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def _pipeline(self) -> str:
        if self.pictures is None:
            height, width = self.size
            pictures = f"videotestsrc is-live=true pattern=ball ! video/x-raw,width={width},height={height},framerate="
            pictures += f"{self.fps}/1"
        else:
            pictures = f'multifilesrc location="{self.pictures}/%05d.png" loop=true '
            pictures += (
                f'caps="image/png,framerate={self.fps}/1" ! pngdec ! videoconvert ! video/x-raw,format=I420'
            )
        return f"( {pictures} ! {_ENCODERS[self.codec].format(fps=self.fps)} name=pay0 )"


def _serve(port: str, pipeline: str) -> None:
    """Serve a pipeline until standard input ends; runs in `GSTREAMER_PYTHON`."""
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
    factory = GstRtspServer.RTSPMediaFactory(launch=pipeline, shared=True)
    server.get_mount_points().add_factory("/live", factory)
    if not server.attach(None):
        raise SystemExit(f"cannot listen on port {port}")
    loop = GLib.MainLoop()
    GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, GLib.IOCondition.HUP, lambda *_: loop.quit())
    print("ready", flush=True)  # noqa: T201 - the parent waits for it
    loop.run()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
