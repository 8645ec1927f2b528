import functools
import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from idol_deploy.config import preset
from idol_deploy.data.loader import EndlessSampler, LoaderState, draw_sample, to_pair
from idol_deploy.objective.batch import collate
from idol_deploy.settings import TrainSettings, override_settings, settings_to_json
from idol_deploy.train.data import open_training_data
from idol_deploy.train.graph import build_graph
from idol_deploy.train.loop import Trained, Training, train
from idol_deploy.train.processes import joined
from idol_deploy.train.snapshots import SnapshotFolder, read_snapshot
from idol_deploy.train.step import Stepper
from idol_deploy.weights.checkpoint import inspect_checkpoint
from idol_runtime.errors import CheckpointError, DataError, OutputError, TrainingError
from moving_shapes import MadeDataset, make_stills, make_videos

SCRIPT = """
import os, signal, sys
from pathlib import Path
from idol_deploy.train.loop import Training, train
from idol_deploy.train.processes import joined
from idol_deploy.settings import settings_from_json

settings, output, last = sys.argv[1:]

def announce(what):
    if last and what.startswith(f"iteration {last} of"):
        os.kill(os.getpid(), signal.SIGKILL)

with joined("cpu") as processes:
    train(Training(settings_from_json(Path(settings).read_text(), settings), Path(output)), processes, announce)
"""


def run(settings: TrainSettings, output: Path, *, resume: bool = False, announce: Any = print) -> Trained:
    newest = SnapshotFolder(output, 1).newest() if resume else None
    with joined("cpu") as processes:
        return train(Training(settings, output, resume=newest), processes, announce)


def entries(output: Path) -> list[dict[str, Any]]:
    """Return the log without its times."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def script(
    folder: Path, settings: TrainSettings, output: Path, last: str = "", launcher: tuple[str, ...] = ()
) -> int:
    (folder / "train.py").write_text(SCRIPT)
    (folder / "given.json").write_text(settings_to_json(settings))
    command = [sys.executable, *launcher, folder / "train.py", folder / "given.json", output, last]
    return subprocess.run(command, check=False).returncode


def changed(settings: TrainSettings, **train: Any) -> TrainSettings:
    return replace(
        settings, network=replace(settings.network, train=replace(settings.network.train, **train))
    )


def test_both_directions_reach_the_batches(settings: TrainSettings, tmp_path: Path) -> None:
    seen = []
    for both in (False, True):
        run(changed(settings, iterations=1, both_directions=both), tmp_path / str(both))
        seen.append(entries(tmp_path / str(both))[0]["items"])
    assert 0 < seen[0] < seen[1]


def test_killed_and_resumed_ends_with_the_same_bits(settings: TrainSettings, tmp_path: Path) -> None:
    # Dropout is on: the generators must be restored as well.
    assert settings.network.model.dropout > 0
    run(settings, tmp_path / "whole")
    cut = tmp_path / "cut"
    assert script(tmp_path, settings, cut, "3") == -signal.SIGKILL
    assert not (cut / "final.safetensors").exists()
    assert [path.name for path in SnapshotFolder(cut, 1).snapshots()] == ["iteration-00000002.pt"]
    assert len(entries(cut)) == 3

    trained = run(settings, cut, resume=True)
    assert trained.iterations == 4
    assert entries(cut) == entries(tmp_path / "whole")
    cut_weights, whole_weights = (
        inspect_checkpoint(tmp_path / name / "final.safetensors").weights for name in ("cut", "whole")
    )
    assert cut_weights == whole_weights


def test_resumed_at_another_rate_it_is_trained_at_that_rate(settings: TrainSettings, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(changed(settings, iterations=2), output)
    before = read_snapshot(SnapshotFolder(output, 1).newest())
    run(changed(settings, lr=1e-12), output, resume=True)
    after = read_snapshot(SnapshotFolder(output, 1).newest())
    assert [entry["lr"] for entry in entries(output)][-1] == pytest.approx(1e-12)
    assert after.iteration == 4
    for key, tensor in after.model.items():
        torch.testing.assert_close(tensor, before.model[key], rtol=0, atol=1e-9)


def test_resumed_with_other_groups_it_is_told(settings: TrainSettings, tmp_path: Path) -> None:
    run(changed(settings, iterations=2), tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"train\.backbone_lr_factor"):
        run(changed(settings, backbone_lr_factor=1.0), tmp_path / "out", resume=True)


def test_accumulated_batches_and_recomputed_layers_go_on_too(settings: TrainSettings, tmp_path: Path) -> None:
    settings = replace(settings, run=replace(settings.run, accumulate=2, recompute=True))
    run(settings, tmp_path / "whole")
    run(changed(settings, iterations=2), tmp_path / "cut")
    run(settings, tmp_path / "cut", resume=True)
    assert entries(tmp_path / "cut") == entries(tmp_path / "whole")


def test_stopped_run_leaves_a_snapshot(settings: TrainSettings, tmp_path: Path) -> None:
    def announce(what: str) -> None:
        if what.startswith("iteration 1 of"):
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    # A request during the first iteration takes effect after the second: the processes must agree on the last one.
    trained = run(changed(settings, checkpoint_period=100), tmp_path / "out", announce=announce)
    assert (trained.iterations, trained.interrupted, trained.outputs) == (2, True, ())
    assert SnapshotFolder(tmp_path / "out", 1).newest().name == "iteration-00000002.pt"
    assert signal.getsignal(signal.SIGTERM) is before


def test_loss_that_is_no_number_stops_and_keeps_the_snapshot(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Stepper.step

    def spoilt(self: Stepper, *args: Any, **options: Any) -> Any:
        if args[1] == 2:
            with torch.no_grad():
                next(iter(self.optimiser.param_groups[1]["params"])).fill_(math.nan)
        return step(self, *args, **options)

    monkeypatch.setattr(Stepper, "step", spoilt)
    with pytest.raises(TrainingError, match=r"iteration 3: loss_\w+ is nan; the last snapshot is unchanged"):
        run(settings, tmp_path / "out")
    monkeypatch.undo()
    assert run(settings, tmp_path / "out", resume=True).iterations == 4


def test_broken_frame_is_counted_and_passed_over(
    settings: TrainSettings, tmp_path: Path, shapes: MadeDataset
) -> None:
    frames = tmp_path / "frames"
    shutil.copytree(shapes.frames, frames)
    for path in (frames / "0002").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    settings = replace(settings, data=replace(settings.data, frames=str(frames)))
    messages: list[str] = []
    run(settings, tmp_path / "out", announce=messages.append)
    last = entries(tmp_path / "out")[-1]
    assert last["faults"] > 0
    assert any("unreadable image" in line and "video 2" in line for line in messages)
    with pytest.raises(DataError, match="video 2, frame"):
        run(replace(settings, data=replace(settings.data, strict=True)), tmp_path / "strict")


def test_folder_of_another_run_is_left_alone(settings: TrainSettings, tmp_path: Path) -> None:
    (tmp_path / "final.safetensors").touch()
    with pytest.raises(OutputError, match="continue it with --resume"):
        run(settings, tmp_path)


@pytest.mark.parametrize(
    ("make", "name", "workers"),
    [
        (functools.partial(make_videos, videos=4, frames=3, form="ytvis"), "ytvis19_r50", 0),
        (functools.partial(make_videos, videos=4, frames=3, form="ovis"), "ovis_r50", 2),
        (functools.partial(make_stills, images=4), "coco_r50", 0),
    ],
    ids=["ytvis", "ovis", "coco"],
)
def test_every_format_trains_with_every_augmentation(
    settings: TrainSettings,
    tmp_path: Path,
    make: Callable[..., MadeDataset],
    name: str,
    workers: int,
) -> None:
    made = make(tmp_path / "data", size=(60, 80), shapes=3)
    # The recipe of the preset at a tenth of its sizes.
    published = preset(name).train
    small = replace(
        published,
        min_sizes=tuple(side // 10 for side in published.min_sizes),
        max_size=published.max_size // 10,
        crop_range=(38, 60),
        crop_short_sides=(40, 50, 60),
        crop_probability=1.0,
        flip_probability=1.0,
        batch_pairs=3,
        iterations=3,
        checkpoint_period=3,
    )
    data = replace(settings.data, annotations=str(made.annotations), frames=str(made.frames), workers=workers)
    if not small.still_images:
        data = replace(data, holdout=0, holdout_share=0.3)
    run_config = replace(settings.run, evaluate_period=0 if small.still_images else 3)
    settings = TrainSettings(replace(settings.network, train=small), data, run_config)
    messages: list[str] = []
    assert run(settings, tmp_path / "out", announce=messages.append).iterations == 3
    steps = [entry for entry in entries(tmp_path / "out") if "loss" in entry]
    assert all(math.isfinite(entry["loss"]) and entry["matched"] > 0 for entry in steps)
    assert any(entry["items"] > 0 for entry in steps)
    assert steps[-1]["faults"] == 0
    assert not any(line.startswith(("left out", "skipped")) for line in messages)
    scores = [entry["scores"] for entry in entries(tmp_path / "out") if "scores" in entry]
    assert ["AP_occ_heavy" in found for found in scores] == (
        [] if small.still_images else [name == "ovis_r50"]
    )


@pytest.mark.usefixtures("operator_built")
def test_operator_trains_as_torch_alone(settings: TrainSettings, tmp_path: Path) -> None:
    messages: dict[str, list[str]] = {"always": [], "never": []}
    for which, lines in messages.items():
        chosen = override_settings(settings, [f"run.operator={which}", "train.iterations=3"])
        run(chosen, tmp_path / which, announce=lines.append)
    assert "deformable attention: compiled operator" in messages["always"]
    assert "deformable attention: plain PyTorch (run.operator=never)" in messages["never"]
    ours, theirs = entries(tmp_path / "always"), entries(tmp_path / "never")
    assert ours[0]["losses"] == pytest.approx(theirs[0]["losses"], rel=1e-5)
    # AdamW's first steps have the same length for a gradient of rounding errors as for any other.
    for name, tolerance in (("loss", 1e-3), ("grad_norm", 1e-2)):
        assert [entry[name] for entry in ours] == pytest.approx(
            [entry[name] for entry in theirs], rel=tolerance
        )
    assert ours != theirs


def test_best_on_the_holdout_is_kept(settings: TrainSettings, tmp_path: Path) -> None:
    settings = replace(
        settings,
        data=replace(settings.data, holdout=0),
        run=replace(settings.run, evaluate_period=2),
    )
    trained = run(settings, tmp_path / "out")
    scored = [entry["scores"]["AP"] for entry in entries(tmp_path / "out") if "scores" in entry]
    assert len(scored) == 2
    assert trained.best == max(scored)
    assert {path.name for path in trained.outputs} == {"final.safetensors", "best.safetensors"}


def test_whatever_trains_is_evaluated(settings: TrainSettings, tmp_path: Path, shapes: MadeDataset) -> None:
    contents = json.loads(shapes.annotations.read_text())
    contents["categories"][0]["name"] = "Compact-disc"
    contents["categories"].append({"id": 9, "name": "emu"})
    for entry in contents["annotations"][::2]:
        entry["category_id"] = 9
    annotations = tmp_path / "spelt.json"
    annotations.write_text(json.dumps(contents))
    settings = replace(
        settings,
        network=replace(settings.network, classes=("compact_disc", "square", "triangle")),
        data=replace(settings.data, annotations=str(annotations), holdout=0),
        run=replace(settings.run, evaluate_period=2),
    )
    messages: list[str] = []
    assert run(settings, tmp_path / "out", announce=messages.append).best is not None
    assert any("1 of 4 categories are no class of the model (emu)" in line for line in messages)


@pytest.mark.parametrize("everywhere", [False, True], ids=["published", "global"])
def test_two_processes_equal_one(uneven: TrainSettings, tmp_path: Path, everywhere: bool) -> None:
    """As published, the mean of the processes' losses; with the global normaliser, those of the whole batch."""
    settings = override_settings(uneven, [f"loss.global_normaliser={everywhere}", "train.iterations=2"])
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert script(tmp_path, settings, tmp_path / "two", launcher=launcher) == 0
    two = entries(tmp_path / "two")

    if everywhere:
        run(settings, tmp_path / "one")
        one = entries(tmp_path / "one")[:2]
        wanted = [(entry["loss"], entry["grad_norm"]) for entry in one]
    else:
        wanted = [_mean_of_shares(settings)]
    got = [(entry["loss"], entry["grad_norm"]) for entry in two]
    assert got[: len(wanted)] == [pytest.approx(pair, rel=2e-4) for pair in wanted]


def _mean_of_shares(settings: TrainSettings) -> tuple[float, float]:
    """Compute loss and gradient norm of each pair of the first iteration."""
    pairs = open_training_data(settings).pairs
    graph = build_graph(settings, 0, None, print)
    draws = next(iter(EndlessSampler(len(pairs), LoaderState(0), 2)))
    totals = []
    for draw in draws:
        sample, _ = draw_sample(pairs, draw, 0)
        losses = graph(collate([to_pair(sample)], settings.network.preprocessing))
        (losses.total / 2).backward()
        totals.append(losses.total.item())
    gradients = [p.grad for p in graph.parameters() if p.grad is not None]
    return sum(totals) / 2, torch.stack([g.norm() for g in gradients]).norm().item()
