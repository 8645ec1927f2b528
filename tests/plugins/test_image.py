"""The resize, bit-identical to Pillow's along one axis after the other."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from idol_plugins import image as module
from idol_plugins.errors import PluginError
from idol_plugins.image import ImageLibrary

SIDES = st.integers(1, 150)


@pytest.fixture(scope="module")
def library(libraries: Path) -> ImageLibrary:
    return ImageLibrary(libraries / "libidol_image.so")


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.integers(0, 2**32 - 1))
@example((720, 1280), (360, 640), 0)  # half, as cameras are resized mostly
@example((108, 192), (480, 853), 1)
@example((1, 1), (7, 3), 2)
@example((150, 149), (1, 1), 3)
def test_it_equals_pillow(
    library: ImageLibrary, before: tuple[int, int], after: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (*before, 3), dtype=np.uint8)
    if seed % 2:
        frame = (frame > 127) * np.uint8(255)  # sums as large and as small as they can be
    first = Image.fromarray(frame).resize((after[1], before[0]), Image.Resampling.BILINEAR)
    expected = np.asarray(first.resize(after[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(library.resize(frame, after), expected)


def test_a_view_is_resized_as_what_it_shows(library: ImageLibrary) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    view = frame[::-1, 5:, ::-1]
    np.testing.assert_array_equal(library.resize(view, (20, 30)), library.resize(view.copy(), (20, 30)))


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        (np.zeros((4, 4, 4), np.uint8), (2, 2)),
        (np.zeros((4, 4, 3), np.float32), (2, 2)),
        (np.zeros((4, 4), np.uint8), (2, 2)),
        (np.zeros((0, 4, 3), np.uint8), (2, 2)),
        (np.zeros((4, 4, 3), np.uint8), (0, 2)),
    ],
)
def test_other_arrays_are_refused(library: ImageLibrary, frame: np.ndarray, size: tuple[int, int]) -> None:
    with pytest.raises(PluginError, match=r"expected an image \[H, W, 3\] of uint8"):
        library.resize(frame, size)


def test_another_interface_is_refused(
    libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.so").write_bytes(b"nothing")
    with pytest.raises(PluginError, match="build it again"):
        ImageLibrary(tmp_path / "broken.so")
    shutil.copy(libraries / "libidol_image.so", tmp_path / "libidol_image.so")
    monkeypatch.setattr(module, "ABI", 99)
    with pytest.raises(PluginError, match="has interface 1, this version needs 99; build it again"):
        ImageLibrary(tmp_path / "libidol_image.so")
