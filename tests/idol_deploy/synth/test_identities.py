from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idol_deploy.synth.identities import read_library, recolour
from idol_runtime.errors import ConfigError, SourceError


def _save(path: Path, colour: tuple[int, int, int, int] = (9, 99, 199, 255)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (6, 4), colour).save(path, lossless=True)


def test_nobody_is_on_both_sides_of_the_split() -> None:
    library = read_library()
    train, val = library.identities("train"), library.identities("val")
    assert set(train) == set(val)
    for kind in train:
        sides = [{identity.family for identity in side[kind]} for side in (train, val)]
        assert not sides[0] & sides[1]
        assert len(train[kind]) + len(val[kind]) == sum(one.kind == kind for one in library.all)
        assert 0.15 < len(val[kind]) / len(train[kind]) < 0.5
    # A black bird and a bird may be the same individual.
    birds = {identity.name: identity.family for identity in library.all if identity.kind == "bird"}
    assert birds["1f426"] == birds["1f426-200d-2b1b"]


def test_few_kinds_of_animals_are_one_class_unless_asked_for(tmp_path: Path) -> None:
    library = read_library()
    assert library.classes == ("animal", "blob", "face", "fruit", "person", "ring", "star", "vehicle")
    classes = {identity.kind: library.class_of(identity) for identity in library.all}
    assert {kind for kind in classes if classes[kind] == "animal"} == {"animal", "bird", "bug", "sea_animal"}
    assert all(kind == name for kind, name in classes.items() if name != "animal")
    apart = read_library(classes=tuple(classes))
    assert apart.classes == tuple(sorted(classes))
    assert apart.identities("val") == library.identities("val")
    assert apart.digest() != library.digest()
    _save(tmp_path / "bird" / "mine.webp")
    assert read_library([tmp_path], shipped=False).classes == ("bird",)


def test_one_keeps_its_side_when_others_come(tmp_path: Path) -> None:
    for i in range(30):
        _save(tmp_path / "few" / "bird" / f"bird{i}.webp")
        _save(tmp_path / "cut" / "bird" / f"clip{i // 3}_{i}" / "000.webp")
    before = read_library().identities("val")
    after = read_library([tmp_path / "few", tmp_path / "cut"]).identities("val")
    assert set(before["bird"]) < set(after["bird"])
    # The tracks of one clip are in one split.
    held_out = {one.family for one in after["bird"]}
    assert not held_out & {one.family for one in read_library([tmp_path / "cut"]).identities("train")["bird"]}
    assert any(family.startswith("clip") for family in held_out)


def test_folders_of_cut_outs(tmp_path: Path) -> None:
    for name in ("b", "a"):
        _save(tmp_path / "cow" / "walk_0" / f"{name}.png", (0, 0, ord(name), 255))
    _save(tmp_path / "cow" / "one.webp")
    _save(tmp_path / "1f426.webp")
    _save(tmp_path / "mine.webp")
    library = read_library([tmp_path], shipped=False)
    assert library.classes == ("bird", "cow", tmp_path.name)
    cow = {one.name: one for one in library.all if one.kind == "cow"}
    assert [int(picture[0, 0, 2]) for picture in cow["walk_0"].pictures()] == [ord("a"), ord("b")]
    assert cow["one"].pictures()[0].shape == (4, 6, 4)
    assert read_library([tmp_path], classes=["cow"]).classes == ("cow",)
    assert read_library([tmp_path]).digest() != read_library().digest()


def test_a_class_of_one_is_for_training(tmp_path: Path) -> None:
    _save(tmp_path / "cow" / "one.webp")
    library = read_library([tmp_path], shipped=False)
    assert library.identities("val") == {}
    assert len(library.identities("train")["cow"]) == 1


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no CLASS/TRACK/.*; give another folder"):
        read_library([tmp_path])
    with pytest.raises(SourceError, match="there is no folder"):
        read_library([tmp_path / "gone"])
    with pytest.raises(ConfigError, match="unknown class cows; choose from animal"):
        read_library(classes=["cows"])
    _save(tmp_path / "cow" / "clear.png", (0, 0, 0, 0))
    (tmp_path / "cow" / "text.png").write_text("not a picture")
    clear, text = read_library([tmp_path], shipped=False).all
    with pytest.raises(SourceError, match=r"clear\.png is completely transparent; remove it"):
        clear.pictures()
    with pytest.raises(SourceError, match=r"cannot read picture .*text\.png.*; remove or replace it"):
        text.pictures()


def test_a_turn_of_the_hue_keeps_greys_and_comes_round() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(60, 180, (5, 6, 4), np.uint8)
    third = 2 * np.pi / 3
    np.testing.assert_array_equal(recolour(picture, 0, np.ones(3)), picture)
    # A third of a turn exchanges the channels.
    np.testing.assert_array_equal(recolour(picture, third, np.ones(3))[..., :3], picture[..., [2, 0, 1]])
    grey = np.repeat(picture[..., :1], 4, -1)
    np.testing.assert_array_equal(recolour(grey, 1.3, np.ones(3)), grey)
    darker = recolour(picture, 0, np.array([0.5, 1, 1]), np.full((3, 3), 0.5))
    np.testing.assert_allclose(darker[..., 0], picture[..., 0] / 4, atol=0.5)
    np.testing.assert_array_equal(darker[..., 3], picture[..., 3])
