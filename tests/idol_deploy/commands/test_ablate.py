"""`idol-deploy ablate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moving_shapes import make_videos

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.idol_deploy.conftest import Command


def _ablate(folder: Path, *more: object) -> list[object]:
    made = make_videos(folder / "ovis", videos=2, frames=3, size=(48, 64), shapes=2, form="ovis")
    train = ["--annotations", made.annotations, "--frames", made.frames]
    val = ["--val-annotations", made.annotations, "--val-frames", made.frames]
    small = ["train.min_sizes=48", "train.batch_pairs=1", "train.iterations=1", "data.workers=0"]
    sets = [word for setting in small for word in ("--set", setting)]
    output = ["-o", folder / "runs" / "table"]
    return ["ablate", "--preset", "toy", "--own-classes", *train, *val, *sets, *output, *more]


@pytest.mark.usefixtures("toy_preset")
def test_a_row_of_one_seed(idol: Command, tmp_path: Path) -> None:
    done = idol(*_ablate(tmp_path, "--seeds", 7, "--rows", "temporal"))
    assert done.status == 0, done
    assert "\n| + temporal | " in done.out
    assert (tmp_path / "runs/table/seed7/transport/final.safetensors").is_file()
    assert (tmp_path / "runs/table/ablation.md").read_text() in done.out


@pytest.mark.usefixtures("toy_preset")
def test_a_row_that_does_not_exist(refused: Callable[..., str], tmp_path: Path) -> None:
    arguments = _ablate(tmp_path, "--rows", "tempral")
    assert "no row 'tempral'; choose of id_head_cues" in refused(*arguments)
