"""`idol-deploy figure`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from moving_shapes import MadeDataset, make_stills, make_videos

if TYPE_CHECKING:
    from idol_deploy.config import IdolConfig
    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Command

SMALL = ("--set", "train.min_sizes=48", "--set", "train.max_size=64", "--set", "train.crop_range=32,48")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeDataset:
    return make_videos(tmp_path_factory.mktemp("videos"), videos=1, frames=3, size=(48, 64), shapes=2)


@pytest.fixture
def tiny_preset(tiny_config: IdolConfig, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny network is a preset."""
    from idol_deploy import config as config_module

    monkeypatch.setattr(config_module, "PRESETS", {**config_module.PRESETS, "tiny": tiny_config})
    return "tiny"


def data(made: MadeDataset, preset: str = "tiny") -> list[object]:
    return ["--preset", preset, "--annotations", made.annotations, "--frames", made.frames, "--own-classes"]


def is_picture(path: Path) -> bool:
    with Image.open(path) as image:
        return image.convert("L").getextrema() != (255, 255)


def test_pairs_and_their_seed(idol: Command, made: MadeDataset, tiny_preset: str, tmp_path: Path) -> None:
    written = []
    for seed in (3, 3, 4):
        out = tmp_path / f"{len(written)}.png"
        done = idol("figure", "pairs", *data(made), *SMALL, "--pairs", 1, "--seed", seed, "-o", out)
        assert (done.status, done.err) == (0, "")
        assert f"wrote {out}\n" in done.out
        written.append(out.read_bytes())
    assert written[0] == written[1] != written[2]


def test_selection_with_random_weights(
    idol: Command, refused: Callable[..., str], made: MadeDataset, tiny_preset: str, tmp_path: Path
) -> None:
    out = tmp_path / "a.png"
    done = idol("figure", "selection", *data(made), "--video", "0001", "--frame", 1, "-o", out)
    assert (done.status, done.err) == (0, "")
    assert "running random weights\n" in done.out
    assert "\niou        0 positive, " in done.out
    assert "\ntransport  2 positive" in done.out
    assert is_picture(out)
    stills = make_stills(tmp_path / "stills", images=1, size=(48, 64), shapes=1)
    done = idol("figure", "selection", *data(stills), "--image", "1", "-o", out)
    assert (done.status, done.err) == (0, "")
    where = "--video", "0001", "--frame", 3, "-o", tmp_path / "b.png"
    assert "video 0001 has no frame 3; choose one of 0 to 2" in refused(
        "figure", "selection", *data(made), *where
    )
    where = "--video", "1", "-o", tmp_path / "b.gif"
    assert "use the suffix .png, .svg, .pdf" in refused("figure", "selection", *data(made), *where)


def test_identities_and_timeline_of_a_bundle(
    idol: Command, refused: Callable[..., str], toy: Toy, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.png"
    bundle = "figure", "identities", "--bundle", toy.path, "--source", images
    done = idol(*bundle, "--frames", "4,1", "-o", out)
    assert (done.status, done.err) == (0, "")
    assert "with TWS: 4 identities\nwithout TWS: 4 identities\n" in done.out
    assert done.out.endswith(f"wrote {out}: frames 1, 4\n")
    assert is_picture(out)
    against = "--against", "association.matching=multi_cue", "--max-frames", 3
    done = idol(*bundle, *against, "-o", out)
    assert "as configured: 4 identities\nassociation.matching=multi_cue: " in done.out
    message = refused(*bundle, "--gt", tmp_path / "gt.json", "-o", tmp_path / "b.png")
    assert "--gt and --video go together" in message
    assert "is an input as well" in refused(*bundle, "-o", next(images.glob("*.png")))
    assert "write 10,14,18, for example" in refused(*bundle, "--frames", "1;2", "-o", tmp_path / "b.png")
    lines = tmp_path / "a.jsonl"
    idol("run", toy.path, "--source", images, "--jsonl", lines)
    done = idol("figure", "timeline", lines, "-o", out)
    assert (done.status, done.out) == (0, f"wrote {out}: 4 tracks\n")
    assert is_picture(out)
    assert "cannot read" in refused("figure", "timeline", tmp_path / "none", "-o", tmp_path / "b.png")
