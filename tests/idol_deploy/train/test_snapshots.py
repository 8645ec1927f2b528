import contextlib
import json
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from idol_deploy.data.loader import LoaderState
from idol_deploy.model.idol import Idol
from idol_deploy.settings import TrainSettings, settings_from_json
from idol_deploy.train.snapshots import Snapshot, SnapshotFolder, read_snapshot
from idol_deploy.weights.checkpoint import load_checkpoint
from idol_deploy.weights.layout import published_state
from idol_runtime.errors import CheckpointError, IdolError, OutputError

Flipped = Callable[[bytes, int], Iterator[bytes]]

LIMIT = 100_000  # bytes of a file, fewer than a snapshot of the tiny network has


@pytest.fixture
def snapshot(settings: TrainSettings) -> Snapshot:
    torch.manual_seed(0)
    state = published_state(Idol(settings.network))
    return Snapshot(settings, 7, state, {}, {"state": {}}, {}, LoaderState(3, 14), [{}], best=0.5)


def test_snapshot_comes_back(snapshot: Snapshot, tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path, 1)
    folder.begin(snapshot.settings, resumed=False)
    read = read_snapshot(folder.write(snapshot))
    assert replace(read, model={}) == replace(snapshot, model={})
    assert all(torch.equal(tensor, snapshot.model[key]) for key, tensor in read.model.items())
    settings = (tmp_path / "settings.json").read_text()
    assert settings_from_json(settings, "settings.json") == snapshot.settings


def test_snapshot_is_a_checkpoint_like_any_other(snapshot: Snapshot, tmp_path: Path) -> None:
    path = SnapshotFolder(tmp_path, 1).write(snapshot)
    model = load_checkpoint(path, snapshot.settings.network)
    assert all(torch.equal(tensor, snapshot.model[key]) for key, tensor in published_state(model).items())


def test_last_few_are_kept_by_number(snapshot: Snapshot, tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path, 2)
    for iteration in (8, 9, 100_000_000, 10):
        folder.write(replace(snapshot, iteration=iteration))
    assert [path.name for path in folder.snapshots()] == ["iteration-00000010.pt", "iteration-100000000.pt"]
    assert folder.newest().name == "iteration-100000000.pt"


def test_full_disk_leaves_the_last_snapshot(snapshot: Snapshot, tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path, 1)
    before = folder.write(snapshot)
    # A file size limit: the same error as a full disk, with another number.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*iteration-00000008\.pt"):
            folder.write(replace(snapshot, iteration=8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [before]
    assert read_snapshot(before).iteration == 7


def test_leftovers_of_a_killed_run_are_removed(snapshot: Snapshot, tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path, 1)
    kept = folder.write(snapshot)
    code = (
        "import os, signal, sys, torch\n"
        "from idol_runtime.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "iteration-00000008.pt"], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    assert folder.newest() == kept
    folder.begin(snapshot.settings, resumed=True)
    assert {path.name for path in tmp_path.iterdir()} == {kept.name, "settings.json"}


def test_what_is_no_snapshot_is_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path, 3)
    with pytest.raises(CheckpointError, match=r"no snapshot in .* to resume"):
        folder.newest()
    with pytest.raises(CheckpointError, match="cannot read"):
        read_snapshot(tmp_path / "absent.pt")
    path = folder.write(snapshot)
    torch.save({"model": snapshot.model}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="start from its weights with --weights"):
        read_snapshot(tmp_path / "weights.pt")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="--resume takes the one before it"):
        read_snapshot(path)


def test_a_run_that_was_killed_before_its_first_snapshot_begins_anew(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    folder = SnapshotFolder(tmp_path, 3)
    folder.begin(snapshot.settings, resumed=False)
    folder.log.write_text('{"iteration": 1}\n')
    folder.begin(snapshot.settings, resumed=False)
    for kept in (folder.final, folder.best, folder.write(snapshot)):
        kept.touch()
        with pytest.raises(OutputError, match="holds a training run; continue it with --resume"):
            folder.begin(snapshot.settings, resumed=False)
        kept.unlink()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, None) for name in ("settings", "iteration", "model", "optimiser", "loader", "chance")),
        ("best", "high"),
        ("model", {"a": 1}),
        ("loader", {"seed": 1, "position": "far"}),
    ],
)
def test_a_snapshot_whose_contents_do_not_fit_is_broken(
    snapshot: Snapshot, tmp_path: Path, name: str, value: object
) -> None:
    path = SnapshotFolder(tmp_path, 1).write(snapshot)
    whole = torch.load(path, weights_only=True)
    for contents in (whole | {name: value}, {key: kept for key, kept in whole.items() if key != name}):
        torch.save(contents, path)
        with pytest.raises(CheckpointError, match=rf"--resume takes the one before it .*{name}"):
            read_snapshot(path)
    torch.save({key: kept for key, kept in whole.items() if key != "format_version"}, path)
    with pytest.raises(CheckpointError, match="has snapshot format None"):
        read_snapshot(path)


def test_a_snapshot_from_before_the_backbone_s_tag_is_read(snapshot: Snapshot, tmp_path: Path) -> None:
    path = SnapshotFolder(tmp_path, 1).write(snapshot)
    contents = torch.load(path, weights_only=True)
    settings = json.loads(contents["settings"])
    del settings["network"]["model"]["backbone"]["kind"]
    torch.save(contents | {"settings": json.dumps(settings)}, path)
    assert read_snapshot(path).settings == snapshot.settings


def test_flipped_bits_are_a_broken_snapshot(snapshot: Snapshot, tmp_path: Path, flipped: Flipped) -> None:
    small = replace(snapshot, model={"a.weight": torch.ones(2, 3)})
    path = SnapshotFolder(tmp_path, 1).write(small)
    for contents in flipped(path.read_bytes(), 400):
        path.write_bytes(contents)
        with contextlib.suppress(IdolError):
            read_snapshot(path)


def test_deep_values_are_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    path = SnapshotFolder(tmp_path, 1).write(snapshot)
    contents = torch.load(path, weights_only=True)
    torch.save(contents | {"settings": "[" * 100_000}, path)
    with pytest.raises(IdolError, match="values are nested too deeply; pass a run's settings"):
        read_snapshot(path)
    torch.save(contents | {"chance": ["DEEP"]}, path)
    # A pickle of nested lists, which Python's pickler cannot write.
    with zipfile.ZipFile(path) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w") as changed:
        for name, data in members.items():
            text = b"X\x04\x00\x00\x00DEEP"
            assert not name.endswith("data.pkl") or data.count(text) == 1
            changed.writestr(name, data.replace(text, b"]" * 20_000 + b"a" * 19_999))
    with pytest.raises(CheckpointError, match="is broken or not a snapshot"):
        read_snapshot(path)
