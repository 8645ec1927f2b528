"""Clips, checkpoints and outputs for the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from idol_deploy import config as config_module
from idol_deploy.config import PRESETS
from idol_deploy.weights.reference import reference_state
from idol_runtime.optional import load_cv2

if TYPE_CHECKING:
    from tests.conftest import Toy

# FFmpeg reads its log level when the first video of a process is opened, which these tests do before the command.
cv2 = load_cv2("making videos to test with")


@pytest.fixture(scope="session")
def write_video() -> Callable[[Path, npt.NDArray[np.uint8]], Path]:
    """A function that writes frames as a video."""

    def write(path: Path, frames: npt.NDArray[np.uint8]) -> Path:
        size = frames.shape[2], frames.shape[1]
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25.0, size)
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        return path

    return write


@pytest.fixture
def write_images() -> Callable[[Path, npt.NDArray[np.uint8]], Path]:
    """A function that writes frames as images into a new folder."""

    def write(folder: Path, frames: npt.NDArray[np.uint8]) -> Path:
        folder.mkdir()
        for i, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"frame{i}.png")
        return folder

    return write


@pytest.fixture(scope="session")
def clip(toy: Toy, write_video: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of the toy's size."""
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", toy.video(6))


@pytest.fixture
def images(toy: Toy, write_images: Callable[..., Path], tmp_path: Path) -> Path:
    """The same frames as image files."""
    return write_images(tmp_path / "images", toy.video(6))


@pytest.fixture
def toy_preset(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the toy network a preset, and replace its tracing by the stored graph."""
    from idol_export import export

    monkeypatch.setattr(config_module, "PRESETS", {**PRESETS, "toy": toy.config})
    monkeypatch.setattr(export, "probe_to_onnx", lambda graph, **options: toy.probe)


@pytest.fixture(scope="session")
def toy_weights(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "toy.pth"
    torch.save({"model": reference_state(toy.config)}, path)
    return path


@pytest.fixture
def outputs(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "out"
    folder.mkdir()
    return {name: folder / name for name in ("a.mp4", "a.jsonl", "a.json", "masks")}
