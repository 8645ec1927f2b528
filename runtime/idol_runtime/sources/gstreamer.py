"""GStreamer pipelines as a frame source, run by `gst-launch-1.0` in a process of its own."""

import contextlib
import fcntl
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import time
import weakref
from typing import Any

from idol_runtime.errors import ConfigError, SourceError
from idol_runtime.optional import load_av
from idol_runtime.sources.base import Reader, Source
from idol_runtime.sources.container import ContainerReader
from idol_runtime.sources.live import LiveOptions
from idol_runtime.sources.stream import redact

__all__ = ["PipelineReader", "pipeline_text"]

_PREFIXES = ("gst:", "csi:", "v4l2:")
_CAMERA = re.compile(r"csi:[0-9]{1,4}")
# RGB is the only exact format that Matroska stores; Matroska keeps the size, the rate and the time stamps.
_OUTPUT = "videoconvert ! video/x-raw,format=RGB ! matroskamux streamable=true ! fdsink fd="
# Longest time in which a pipeline stops by itself; it is then killed.
_STOP_S = 0.6
# Time after which a thread that waits for a picture notices `stop`.
_STEP_S = 0.2
_PIPE_BYTES = 2**20
_LOG_BYTES = 2**14
_SECRET = re.compile(
    r"((?:user|proxy)-(?:id|pw)|cookies|extra-headers|[\w-]*(?:passw|passphrase|token|secret)[\w-]*)=(.+)"
)
_URL = re.compile(r"\w+://[^\s\"']+")


class PipelineReader(ContainerReader):
    """A GStreamer pipeline that ends in `appsink`, a CSI camera of a Jetson (`csi:0`) or a V4L2 device (`v4l2:PATH`).

    `gst-launch-1.0` runs the pipeline and writes raw pictures into a pipe, so that a driver that crashes or hangs does
    not affect this process. GStreamer states whether a pipeline is live; one that is not, such as a file, has an end.
    """

    live = True
    open_error = "cannot open the pipeline {name}: {reason}; check it with gst-launch-1.0"
    hint = "check the pipeline with gst-launch-1.0"

    def __init__(self, source: Source, live: LiveOptions | None = None) -> None:
        """Start a pipeline and read its first frame.

        Args:
            source: `gst:` and the text of a pipeline, `csi:` and the number of a sensor, or `v4l2:` and a device; text
                with ` ! ` needs no prefix.
            live: time limits; None: those of `LiveOptions()`.

        Raises:
            MissingDependencyError: PyAV is not installed.
            ConfigError: the pipeline is invalid.
            SourceError: the pipeline cannot start or sends no frame.
        """
        self._source, self._limits = source, live or LiveOptions()
        self._silence_s = self._limits.read_timeout_s
        self._process: _Process | None = None
        super().__init__(self.title(source))

    @classmethod
    def open_live(cls, source: Source, live: LiveOptions) -> Reader:
        """Open a pipeline with the given time limits."""
        return cls(source, live)

    @classmethod
    def accepts(cls, source: Source) -> bool:
        """Return True for text with such a prefix or with ` ! ` that is no existing path."""
        return (
            isinstance(source, str)
            and (source.startswith(_PREFIXES) or " ! " in source)
            and not os.path.lexists(source)
        )

    @classmethod
    def title(cls, source: Source) -> str:
        """Return the source without passwords."""
        return _without_secrets(str(source), _secrets(str(source)))

    @classmethod
    def label(cls, source: Source) -> str:
        """Return `csi0`, the name of the device, or the name of the first element."""
        text = str(source)
        if text.startswith("v4l2:"):
            return os.path.basename(text)
        return (cls.title(source).removeprefix("gst:").split() or ["pipeline"])[0].replace(":", "")

    @classmethod
    def check(cls, source: Source) -> None:
        """Check the form of a source, and that `gst-launch-1.0` and PyAV are installed."""
        _elements(source)
        load_av("reading a pipeline")
        if shutil.which("gst-launch-1.0") is None:
            raise SourceError(
                f"cannot open the pipeline {cls.title(source)}: gst-launch-1.0 is not installed; install it, on "
                "Debian, Ubuntu and JetPack with: apt install gstreamer1.0-tools gstreamer1.0-plugins-good"
            )

    def stop(self) -> None:
        """End a wait for the next picture in another thread."""
        if self._process is not None:
            self._process.fault = "it was closed"

    def close(self) -> None:
        """Stop the pipeline; it is killed if it does not stop within a second."""
        super().close()
        if self._process is not None:
            self._process.close()

    def _open(self) -> Any:
        process = self._process = _Process(_elements(self._source), self._limits.open_timeout_s)
        try:
            # The header states the format; FFmpeg would wait for more pictures to estimate their rate.
            options = {"fpsprobesize": "0"}
            container = self._av.open(process, format="matroska", options=options, metadata_errors="replace")
        except self._av.FFmpegError as error:
            kind = ConfigError if process.wait() and "erroneous pipeline" in process.log else SourceError
            reason, fix = self._explain()
            raise kind(f"cannot open the pipeline {self.name}: {reason}; {fix}") from error
        process.limit_s = self._limits.read_timeout_s
        return container

    def _is_live(self, duration_s: float | None) -> bool:
        assert self._process is not None
        return self._process.live

    def _check_complete(self) -> None:
        assert self._process is not None
        if self._process.fault or self._process.wait() or self.live:
            reason, fix = self._explain()
            raise SourceError(f"the pipeline {self.name} stopped at frame {self._next}: {reason}; {fix}")

    def _explain(self) -> tuple[str, str]:
        """Return the reason why the process has ended, and what to do about it."""
        assert self._process is not None
        if self._process.fault:
            return (
                self._process.fault,
                "check its source, and that its pictures have time stamps (do-timestamp=true)",
            )
        log = _without_secrets(self._process.log, _secrets(str(self._source)))
        if missing := re.search(r'no element "(.+?)"', log):
            return (
                f'GStreamer has no element "{missing[1]}"',
                "install its package, such as gstreamer1.0-plugins-good, -bad, -ugly or -libav, or on a Jetson "
                "nvidia-l4t-gstreamer",
            )
        fix = self.hint
        if "Caps changes are not supported" in log:
            return "its frames have another size, rate or shape of pixels now", "open it again"
        if error := re.search(r"ERROR: from element \S*?([^/:\s]+): (.+)(?:\nAdditional.*\n.*\n(.*))?", log):
            detail = f" ({error[3].rstrip('.')})" if error[3] else ""
            return f"{error[1]}: {error[2].rstrip('.')}{detail}", fix
        if error := re.search(r"erroneous pipeline: (.+)", log):
            return error[1], fix
        code = self._process.wait()
        if code < 0:
            return f"gst-launch-1.0 was ended by signal {signal.Signals(-code).name}", fix
        return ("it has no more frames" if self._next else "it has no frames"), fix


def _elements(source: Source) -> list[str]:
    """Return the parts of a pipeline before `! appsink`, as a shell splits them."""
    name = PipelineReader.title(source)
    try:
        parts = shlex.split(pipeline_text(source))
    except ValueError as error:
        raise SourceError(f"cannot read the pipeline {name}: {error}; close the quotation marks") from error
    last = len(parts) - parts[::-1].index("!") if "!" in parts else 0
    if parts[last : last + 1] != ["appsink"]:
        raise SourceError(f"the pipeline {name} does not end in appsink; add: ! appsink")
    return parts[:last]


def pipeline_text(source: Source) -> str:
    """Return the pipeline of a source, up to and with `appsink`.

    Example:
        >>> pipeline_text("csi:1")
        'nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM) ! nvvidconv ! video/x-raw,format=BGRx ! appsink'

    Raises:
        SourceError: the source has no valid form.
    """
    text = str(source)
    if text.startswith("csi:"):
        if not _CAMERA.fullmatch(text):
            raise SourceError(
                f"no number of a camera: {text}; the first CSI camera is csi:0, the second one csi:1"
            )
        sensor = f"nvarguscamerasrc sensor-id={int(text.removeprefix('csi:'))} ! video/x-raw(memory:NVMM)"
        return f"{sensor} ! nvvidconv ! video/x-raw,format=BGRx ! appsink"
    if text.startswith("v4l2:"):
        device = text.removeprefix("v4l2:")
        if not device.startswith("/"):
            raise SourceError(f"no path of a device: {text}; write for example v4l2:/dev/video0")
        return f"v4l2src device={shlex.quote(device)} ! decodebin ! appsink"
    return text.removeprefix("gst:")


class _Process:
    """A pipeline in a process of its own, and a file object that reads its output.

    Attributes:
        limit_s: longest time without output, in seconds.
        fault: reason why reading has ended; may be set by another thread.
        log: last lines that the process printed.
        live: True if the pipeline is live.
    """

    def __init__(self, elements: list[str], limit_s: float) -> None:
        self.limit_s, self.fault, self.log, self.live = limit_s, "", "", False
        self._data, output = os.pipe()
        with contextlib.suppress(OSError, AttributeError):  # the limit of this user; Linux only
            fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            # A session of its own: Ctrl-C in the terminal must not end it before this program. Without --no-fault, a
            # process that crashes waits for a debugger.
            process = subprocess.Popen(  # noqa: S603 - the user's own pipeline, without a shell
                ["gst-launch-1.0", "--no-fault", *elements, *f"{_OUTPUT}{output}".split()],  # noqa: S607
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": ""},  # its messages in English
                pass_fds=[output],
                start_new_session=True,
            )
        finally:
            os.close(output)
        self._process = process
        assert process.stdout is not None
        self._messages = process.stdout.fileno()
        self._poll = select.poll()
        for file in (self._data, self._messages):
            self._poll.register(file, select.POLLIN)
        # Also at the end of this program, if a thread still waits for a picture then.
        self.close = weakref.finalize(self, _stop, process, self._data)

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes of the output; none at the end, after `limit_s` and after `stop`."""
        until = time.monotonic() + self.limit_s
        try:
            while not self.fault and (left := until - time.monotonic()) > 0:
                ready = [file for file, _ in self._poll.poll(1000 * min(left, _STEP_S))]
                if self._messages in ready and not self._read_log():
                    self._poll.unregister(self._messages)
                if self._data in ready:
                    return os.read(self._data, min(size, _PIPE_BYTES))
        except KeyboardInterrupt as error:  # PyAV passes on only an Exception
            self.fault = "reading it was interrupted"
            raise SourceError(f"{self.fault}; start again") from error
        # An exception would be reported several times: FFmpeg goes on reading after it.
        self.fault = self.fault or f"it sent nothing for {self.limit_s:g} s"
        return b""

    def wait(self) -> int:
        """Return the exit status of a process that has closed its output, and read its last messages."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if self.fault else _STOP_S)
        while self._process.poll() is not None and self._read_log():
            pass
        return self._process.poll() or 0

    def _read_log(self) -> bytes:
        text = os.read(self._messages, _LOG_BYTES)
        self.log = (self.log + text.decode(errors="replace"))[-_LOG_BYTES:]
        self.live = self.live or "Pipeline is live" in self.log
        return text


def _stop(process: "subprocess.Popen[bytes]", output: int) -> None:
    """Stop a process, so that its driver releases the camera; kill it if it hangs."""
    os.close(output)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _secrets(text: str) -> list[str]:
    """Return the values of properties that are secret."""
    try:
        parts = shlex.split(text)
    except ValueError:  # reported when the pipeline is opened
        parts = text.split()
    return [match[2] for part in parts if (match := _SECRET.match(part))]


def _without_secrets(text: str, secrets: list[str]) -> str:
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return _URL.sub(lambda url: redact(url[0]), text)
