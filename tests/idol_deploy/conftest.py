"""Fixtures: a full-size network with the reference weights, a tiny network, and the command line."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from idol_deploy.cli import main
from idol_deploy.config import IdolConfig, ModelConfig, SwinConfig, preset

if TYPE_CHECKING:
    from idol_deploy.model.idol import Idol
    from idol_deploy.objective.batch import Pair


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published `ytvis19_r50` checkpoint with the reference weights."""
    import torch

    from idol_deploy.weights.reference import reference_state

    path = tmp_path_factory.mktemp("published") / "ytvis19_r50.pth"
    torch.save({"model": reference_state(preset("ytvis19_r50"))}, path)
    return path


@pytest.fixture(scope="session")
def model(published: Path) -> Idol:
    """The network of `published`; tests must not change it."""
    from idol_deploy.weights.checkpoint import load_checkpoint

    return load_checkpoint(published, preset("ytvis19_r50"))


@pytest.fixture(scope="session")
def tiny_config() -> IdolConfig:
    """The configuration of a tiny network with every part."""
    backbone = SwinConfig(embed_dim=8, depths=(1, 2, 1, 1), heads=(1, 1, 2, 2), window=4, drop_path=0.2)
    network = ModelConfig(
        backbone, hidden_dim=32, queries=7, heads=2, ffn_dim=16, encoder_layers=2, decoder_layers=3
    )
    return replace(preset("ytvis19_r50"), name="tiny", model=network, classes=("cat", "dog"))


@pytest.fixture
def tiny(tiny_config: IdolConfig) -> Idol:
    """A fresh tiny network, in evaluation mode."""
    import torch

    from idol_deploy.model.idol import Idol

    torch.manual_seed(0)
    return Idol(tiny_config).eval()


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., Pair]:
    """Function that makes two frames of a generated video with random boxes as instances and filled boxes as masks."""
    import torch

    from idol_deploy.objective.batch import Pair
    from idol_deploy.weights.reference import make_video

    def make(instances: int, seed: int = 0, size: tuple[int, int] = (64, 96)) -> Pair:
        height, width = size
        g = torch.Generator().manual_seed(seed)
        frames = torch.from_numpy(make_video(2, height, width, seed))
        low = torch.rand(2, instances, 2, generator=g) * 0.6
        high = low + 0.1 + torch.rand(2, instances, 2, generator=g) * 0.3
        boxes = torch.cat((low, high), -1) * torch.tensor([width, height, width, height])
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        left, top, right, bottom = boxes.round()[..., None, None].unbind(2)
        masks, reference_masks = (x >= left) & (x < right) & (y >= top) & (y < bottom)
        present = torch.ones(instances, dtype=torch.bool)
        labels = torch.randint(0, 2, (instances,), generator=g)
        identities = torch.arange(instances)
        return Pair(*frames, labels, *boxes, masks, present, present, identities, reference_masks)

    return make


class Done(NamedTuple):
    """The result of a command."""

    status: int
    out: str
    err: str


Command = Callable[..., Done]
Start = Callable[..., subprocess.Popen[str]]
Unchanged = Callable[..., contextlib.AbstractContextManager[None]]


@pytest.fixture
def idol(capfd: pytest.CaptureFixture[str]) -> Command:
    """Function that runs the command in this process."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        return Done(status, *capfd.readouterr())

    return run


@pytest.fixture
def unchanged(tmp_path: Path) -> Unchanged:
    """Context manager that asserts that nothing in `tmp_path` changes except `beyond`."""

    @contextlib.contextmanager
    def check(beyond: Path | None = None) -> Iterator[None]:
        before = _contents(tmp_path, beyond)
        yield
        assert _contents(tmp_path, beyond) == before

    return check


def _contents(folder: Path, beyond: Path | None = None) -> dict[Path, bytes | None]:
    paths = (path for path in folder.rglob("*") if beyond is None or beyond not in (path, *path.parents))
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def refused(idol: Command, unchanged: Unchanged) -> Callable[..., str]:
    """Function that runs a failing command and returns its one error line; only `beyond` may change in `tmp_path`."""

    def run(*arguments: object, beyond: Path | None = None) -> str:
        with unchanged(beyond):
            done = idol(*arguments)
        assert done.status == 2, done
        assert done.err.startswith("idol-deploy: error: ")
        assert done.err.count("\n") == 1, done.err
        assert done.err.endswith("\n")
        return done.err

    return run


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start() -> Iterator[Start]:
    """Function that starts the command in a process of its own, after the Python code in `first`."""
    processes: list[subprocess.Popen[str]] = []

    def run(*arguments: object, first: str = "", **options: object) -> subprocess.Popen[str]:
        code = f"{first}\nfrom idol_deploy.cli import entry; raise SystemExit(entry())"
        command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # A background job of a shell ignores Ctrl-C, and so would its children.
        processes.append(subprocess.Popen(command, **pipes, **options, preexec_fn=_heed_interrupts))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def flipped() -> Callable[[bytes, int], Iterator[bytes]]:
    """Function that yields copies of a file's bytes, each with another bit flipped, the same in every run."""

    def flip(whole: bytes, times: int) -> Iterator[bytes]:
        rng = np.random.default_rng(0)
        for place in rng.choice(8 * len(whole), times, replace=False).tolist():
            contents = bytearray(whole)
            contents[place // 8] ^= 1 << place % 8
            yield bytes(contents)

    return flip
