"""Decoders against the pictures that they decode, a stand-in for GStreamer, and cameras of a Jetson."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from idol_runtime.doctor import media
from idol_runtime.doctor.probe import Subject
from idol_runtime.errors import IdolError
from tests.runtime.doctor.conftest import ORIN

if TYPE_CHECKING:
    from tests.runtime.doctor.conftest import MakeRoot

SUBJECT = Subject(Path("/"))
LISTING = (
    "coreelements:  fdsink: Filedescriptor Sink\nnvarguscamerasrc:  nvarguscamerasrc: NvArgusCameraSrc\n\n"
)


def test_decoders_and_encoders() -> None:
    av = pytest.importorskip("av")
    finding = media.pyav(SUBJECT)
    assert set(finding.details["decoders"]) == {"h264", "hevc", "av1", "vp9", "mjpeg"}
    available = av.codecs_available
    for decoder in finding.details["decoders"].values():
        assert decoder in available
    for encoder in finding.details["encoders"].values():
        assert av.CodecContext.create(encoder, "w").is_encoder


def test_codecs_that_the_build_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    codec = av.codec.Codec

    def without_av1(name: str, mode: str) -> object:
        return codec("nonsense" if name == "av1" else name, mode)

    monkeypatch.setattr(av.codec, "Codec", without_av1)
    assert ", no av1" in media.pyav(SUBJECT).summary


def _script(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}")
    (folder / name).chmod(0o755)


def test_gstreamer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    _script(tmp_path, "gst-launch-1.0", "echo gst-launch-1.0 version 1.24.2; echo GStreamer 1.24.2")
    _script(tmp_path, "gst-inspect-1.0", f"cat <<END\n{LISTING}END\n")
    finding = media.gstreamer(SUBJECT)
    assert finding.details["version"] == "1.24.2"
    assert [name for name, there in finding.details["elements"].items() if there] == ["nvarguscamerasrc"]
    assert "no v4l2src" in finding.summary
    _script(tmp_path, "gst-inspect-1.0", "exit 4")
    with pytest.raises(IdolError, match=r"gst-inspect-1\.0 fails with exit status 4; "):
        media.gstreamer(SUBJECT)
    monkeypatch.setenv("PATH", "")
    assert media.gstreamer(SUBJECT).state == "missing"


def test_cameras(make_root: MakeRoot) -> None:
    root = make_root(ORIN)
    (root / "dev/video1").unlink()
    finding = media.cameras(Subject(root))
    assert finding.summary == "video0 vi-output, imx219 9-0010, video1 HD Pro Webcam C920"
    kinds = {name: (camera["kind"], camera["exists"]) for name, camera in finding.details.items()}
    assert kinds == {"video0": ("csi", True), "video1": ("v4l2", False), "video2": ("v4l2", True)}
    assert media.cameras(Subject(root / "dev")).state == "missing"
