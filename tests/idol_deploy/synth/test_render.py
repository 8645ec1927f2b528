"""Rendering of two discs, whose outlines have a formula."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from idol_deploy.synth.camera import Camera
from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.layers import Layer, Skin
from idol_deploy.synth.render import Frame, draw_frames, draw_outlines

FRAMES, SIZE, RADIUS = 9, (64, 96), 14.0
CONFIG = replace(SynthConfig(), frames=FRAMES, size=SIZE, blur=0.0, noise=0.0, lighting=0.0)
STILL = Camera(np.zeros((FRAMES, 2)), np.zeros(FRAMES), np.ones(FRAMES))
# x of the middles: the discs pass each other.
WAYS = np.stack([np.linspace(24, 72, FRAMES), np.linspace(72, 24, FRAMES)])


def _disc(colour: tuple[int, int, int], side: int = 112) -> Skin:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    picture = np.zeros((side, side, 4), np.uint8)
    picture[..., :3] = colour
    picture[..., 3] = 255 * (np.hypot(x, y) <= side / 2)
    return Skin((picture,))


def _layer(number: int, skin: Skin, depth: float) -> Layer:
    matrices = np.zeros((FRAMES, 2, 3))
    matrices[:, [0, 1], [0, 1]] = 2 * RADIUS / min(SIZE)
    matrices[:, 0, 2] = (WAYS[number - 1] - SIZE[1] / 2) / min(SIZE)
    return Layer(skin, np.zeros(FRAMES, np.intp), matrices, depth, number)


def _distance(number: int, t: int) -> NDArray[np.float64]:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    return np.hypot(x - WAYS[number - 1, t], y - SIZE[0] / 2)


def _draw(*layers: Layer, config: SynthConfig = CONFIG) -> list[Frame]:
    return list(draw_frames(np.random.default_rng(0), layers, STILL, config))


def test_masks_are_the_discs_less_what_is_in_front() -> None:
    front, behind = _layer(1, _disc((255, 0, 0)), 2.0), _layer(2, _disc((0, 0, 255)), 1.0)
    for t, frame in enumerate(_draw(behind, front)):
        near, far = _distance(1, t), _distance(2, t)
        sure = (abs(near - RADIUS) > 0.8) & (abs(far - RADIUS) > 0.8)  # not on an outline
        expected = np.where(near < RADIUS, 1, np.where(far < RADIUS, 2, 0))
        np.testing.assert_array_equal(frame.owner[sure], expected[sure])
        assert frame.areas == pytest.approx([np.pi * RADIUS**2] * 2, rel=0.03)
        # The colours agree with the masks.
        assert (frame.image[sure & (expected == 1)] == (255, 0, 0)).all()
        assert (frame.image[sure & (expected == 2)] == (0, 0, 255)).all()


def test_blur_and_noise_move_no_mask_by_much() -> None:
    front, behind = _layer(1, _disc((255, 0, 0)), 2.0), _layer(2, _disc((0, 0, 255)), 1.0)
    config = replace(CONFIG, blur=1.0, noise=9.0, lighting=1.0)
    for plain, blurred in zip(_draw(front, behind), _draw(front, behind, config=config), strict=True):
        assert (plain.image != blurred.image).any()
        assert np.mean(plain.owner != blurred.owner) < 0.03


def test_things_hide_and_shadows_do_not() -> None:
    actor = _layer(1, _disc((255, 0, 0)), 1.0)
    alone = _draw(actor)
    thing = replace(_layer(1, _disc((0, 255, 0)), 2.0), instance=0)
    for frame, before in zip(_draw(actor, thing), alone, strict=True):
        assert not frame.owner.any()
        np.testing.assert_array_equal(frame.areas, before.areas)
    shadow = Layer(_disc((0, 0, 0)), thing.which, thing.matrices, 2.0, -1)
    for frame, before in zip(_draw(actor, shadow), alone, strict=True):
        np.testing.assert_array_equal(frame.owner, before.owner)


def test_outlines_are_what_is_drawn() -> None:
    layers = [_layer(1, _disc((255, 0, 0)), 2.0), _layer(2, _disc((0, 0, 255)), 1.0)]
    full, seen = draw_outlines(layers, FRAMES, SIZE)
    for t, frame in enumerate(_draw(*layers)):
        np.testing.assert_array_equal(seen[:, t], [frame.owner == 1, frame.owner == 2])
        np.testing.assert_array_equal(full[:, t].sum((1, 2)), frame.areas)
    np.testing.assert_array_equal(full[0], seen[0])


def test_the_camera_moves_the_background() -> None:
    moving = replace(STILL, place=np.stack([np.arange(FRAMES) / SIZE[0] * 4, np.zeros(FRAMES)], -1))
    first, second = list(draw_frames(np.random.default_rng(0), [], moving, CONFIG))[:2]
    difference = first.image[:, 4:].astype(int) - second.image[:, :-4]
    assert np.abs(difference).max() <= 3  # error of the interpolation
    assert np.abs(first.image.astype(int) - second.image).max() > 20
