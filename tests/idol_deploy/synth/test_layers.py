import numpy as np
import pytest
from numpy.typing import NDArray

from idol_deploy.synth.layers import Layer, Paint, Placer, Skin

SIZE = (40, 60)


def _layer(skin: Skin, places: list[tuple[float, float]], long: float) -> Layer:
    """Return an upright layer with its long side and its middle positions in pixels of the frame."""
    frames = len(places)
    matrices = np.zeros((frames, 2, 3))
    matrices[:, [0, 1], [0, 1]] = long / min(SIZE)
    matrices[..., 2] = (np.array(places) - np.array([SIZE[1], SIZE[0]]) / 2) / min(SIZE)
    return Layer(skin, np.zeros(frames, np.intp), matrices, 0.0, 1)


def _picture(height: int, width: int) -> NDArray[np.uint8]:
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    picture[..., 3] = 255
    return picture


def test_a_picture_of_its_own_size_is_pasted() -> None:
    picture = _picture(8, 12)
    placed = Placer(_layer(Skin((picture,)), [(30, 20)], 12), SIZE).place(0)
    assert placed is not None
    canvas = np.zeros((*SIZE, 4), np.uint8)
    canvas[placed.rows, placed.columns] = placed.pixels
    expected = np.zeros_like(canvas)
    expected[16:24, 24:36] = picture
    np.testing.assert_array_equal(canvas, expected)


@pytest.mark.parametrize("long", [6, 12, 25])
@pytest.mark.parametrize("place", [(0.0, 20.0), (57.3, 38.1), (-3.0, 1.0)])
def test_the_frame_cuts_off_what_reaches_beyond(long: float, place: tuple[float, float]) -> None:
    """A picture that reaches beyond the frame covers the same pixels of it as its outline."""
    layer = _layer(Skin((_picture(24, 24),)), [place], long)
    placed = Placer(layer, SIZE).place(0, outline=True)
    assert placed is not None
    small = np.zeros(SIZE, np.uint8)
    small[placed.rows, placed.columns] = placed.pixels
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    inside = (abs(x - place[0] + 0.5) < long / 2 - 0.5) & (abs(y - place[1] + 0.5) < long / 2 - 0.5)
    outside = (abs(x - place[0] + 0.5) > long / 2 + 0.5) | (abs(y - place[1] + 0.5) > long / 2 + 0.5)
    assert (small[inside] >= 128).all()
    assert (small[outside] < 128).all()


def test_nothing_of_what_is_outside() -> None:
    layer = _layer(Skin((_picture(8, 8),)), [(-30, 20), (30, 90)], 8)
    placer = Placer(layer, SIZE)
    assert placer.place(0) is None
    assert placer.place(1) is None


def test_blur_spreads_along_the_way_and_loses_nothing() -> None:
    picture = np.full((9, 9, 4), 255, np.uint8)
    layer = _layer(Skin((picture,)), [(20, 20), (30, 20), (40, 20)], 9)
    sharp, smeared = (Placer(layer, SIZE, exposure).place(1) for exposure in (0.0, 0.8))
    assert sharp is not None
    assert smeared is not None
    totals = [placed.pixels[..., 3].sum(dtype=int) for placed in (sharp, smeared)]
    assert totals[1] == pytest.approx(totals[0], rel=0.02)
    columns = [
        np.flatnonzero(placed.pixels[..., 3].sum(0)) + placed.columns.start for placed in (sharp, smeared)
    ]
    rows = [np.flatnonzero(placed.pixels[..., 3].sum(1)) + placed.rows.start for placed in (sharp, smeared)]
    assert np.ptp(columns[1]) - np.ptp(columns[0]) in (7, 8, 9)
    assert (columns[1][0] + columns[1][-1]) == (columns[0][0] + columns[0][-1])
    np.testing.assert_array_equal(rows[0], rows[1])


def test_a_jump_blurs_nothing() -> None:
    layer = _layer(Skin((_picture(9, 9),)), [(20, 20), (20, 20), (50, 30), (50, 30)], 9)
    np.testing.assert_array_equal(layer.speeds, np.zeros((4, 2)))


def test_a_shadow_is_never_half_opaque_and_a_skin_knows_its_area() -> None:
    picture = _picture(20, 40)
    picture[:, :20, 3] = 0
    assert Skin((picture,)).areas() == pytest.approx([20 * 20 / 40**2])
    placed = Placer(_layer(Skin((picture,), shadow=True), [(30, 20)], 40), SIZE).place(0)
    assert placed is not None
    assert 60 < placed.pixels[..., 3].max() < 128
    assert not placed.pixels[..., :3].any()


def test_paint_changes_colours_and_no_outline() -> None:
    picture = _picture(16, 16)
    plain, painted = (
        Placer(_layer(Skin((picture,), paint), [(30, 20)], 16), SIZE).place(0)
        for paint in (None, Paint(turn=1.0, tint=np.array([0.8, 1, 1])))
    )
    assert plain is not None
    assert painted is not None
    np.testing.assert_array_equal(plain.pixels[..., 3], painted.pixels[..., 3])
    assert (plain.pixels != painted.pixels).any()
