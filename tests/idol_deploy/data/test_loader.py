from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from idol_deploy.config import preset
from idol_deploy.data import loader as loader_module
from idol_deploy.data.faults import Fault, FaultLog
from idol_deploy.data.loader import Draw, EndlessSampler, LoaderState, PairLoader, draw_sample
from idol_deploy.data.pairs import open_pairs
from idol_runtime.errors import ConfigError, DataError
from moving_shapes import SHAPES, make_videos
from samples.waiting import LIMIT_S, until

if TYPE_CHECKING:
    from idol_deploy.config import IdolConfig
    from idol_deploy.data.samples import PairSource, Sample
    from idol_deploy.objective.batch import Batch
    from moving_shapes import MadeDataset

# Python 3.12 warns of forks by DataLoader, torch of machines with a single core.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

SMALL = replace(preset("ytvis19_r50"), classes=SHAPES)
SMALL = replace(SMALL, train=replace(SMALL.train, min_sizes=(48, 64, 80), max_size=120, crop_range=(40, 60)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeDataset:
    return make_videos(tmp_path_factory.mktemp("videos"), videos=5, frames=4, size=(60, 80))


def _loader(made: MadeDataset, state: LoaderState | None = None, **options: object) -> PairLoader:
    source = open_pairs(made.annotations, made.frames, SMALL, strict=True)
    state = state or LoaderState(seed=7)
    return PairLoader(source, SMALL.preprocessing, pairs=2, state=state, **options)  # type: ignore[arg-type]


def _take(loader: PairLoader, count: int) -> list[Batch]:
    return list(itertools.islice(loader, count))


def _tensors(batch: Batch) -> list[torch.Tensor]:
    targets = batch.targets
    return [batch.images, batch.padding_mask, *(getattr(targets, field.name) for field in fields(targets))]


def _same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y)
        for one, other in zip(a, b, strict=True)
        for x, y in zip(_tensors(one), _tensors(other), strict=True)
    )


def _draws(world: int, rank: int, position: int = 0, lists: int = 8) -> list[tuple[int, int]]:
    sampler = EndlessSampler(5, LoaderState(3, position), 2, rank=rank, world=world)
    return [(d.epoch, d.index) for draws in itertools.islice(sampler, lists) for d in draws]


def test_every_round_takes_each_sample_once_in_another_order() -> None:
    draws = _draws(1, 0, lists=10)
    assert [epoch for epoch, _ in draws] == [i // 5 for i in range(20)]
    rounds = [tuple(index for _, index in draws[i : i + 5]) for i in range(0, 20, 5)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in rounds)
    assert len(set(rounds)) > 1


def test_processes_share_one_order_and_any_number_of_them_goes_on_in_it() -> None:
    whole = _draws(1, 0, lists=12)
    shares = [_draws(3, rank, lists=4) for rank in range(3)]
    assert [draw for together in zip(*shares, strict=True) for draw in together] == whole
    assert _draws(1, 0, position=14, lists=5) == whole[14:]


def test_batches_are_the_same_bits_with_any_number_of_workers(made: MadeDataset) -> None:
    alone = _take(_loader(made), 5)
    assert _same(_take(_loader(made, workers=1), 5), alone)
    assert _same(_take(_loader(made, workers=2), 5), alone)
    assert not _same(_take(_loader(made, LoaderState(seed=8)), 5), alone)


def test_both_directions_annotate_every_frame(made: MadeDataset) -> None:
    (one,), (both,) = _take(_loader(made), 1), _take(_loader(made, both_directions=True), 1)
    assert torch.equal(both.images, one.images)
    assert (one.both_directions, both.both_directions) == (False, True)
    assert torch.equal(both.targets.pixels[::2], one.targets.pixels)
    on_key, on_reference = both.targets.exists[::2].sum(1), both.targets.exists[1::2].sum(1)
    assert torch.equal(on_key, one.targets.exists.sum(1))
    # Instances on both frames, counted from each side.
    assert torch.equal(both.targets.on_reference[::2].sum(1), both.targets.on_reference[1::2].sum(1))
    assert on_reference.all()
    assert both.targets.masks[1::2].flatten(1).any(1).all()


class _Drawing:
    """A source of broken samples only; each fault has the number drawn for it."""

    log = FaultLog()
    identities = 0

    def __len__(self) -> int:
        return 3

    def load(self, index: int, rng: np.random.Generator) -> Fault:
        return Fault("drawn", str(index), repr(rng.random()))


def test_seed_round_number_and_try_each_draw_something_else() -> None:
    runs = [
        draw_sample(_Drawing(), Draw(epoch, index), seed, tries=2)
        for seed, epoch, index in itertools.product(range(3), repeat=3)
    ]
    assert {sample for sample, _ in runs} == {None}
    assert len({fault.detail for _, faults in runs for fault in faults}) == 3**3 * 2
    assert [fault.where for fault in draw_sample(_Drawing(), Draw(0, 2), 0, tries=2)[1]] == ["2", "0"]


def test_a_loader_goes_on_where_another_stopped(made: MadeDataset) -> None:
    whole = _take(_loader(made), 5)
    loader = _loader(made, workers=2)
    first = _take(loader, 2)
    # Workers hold more batches ready; only returned ones count.
    assert loader.state == LoaderState(7, 4)
    assert _same(first, whole[:2])
    assert _same(_take(loader, 1), whole[2:3])
    assert _same(_take(_loader(made, loader.state, workers=1), 2), whole[3:])


def test_loading_leaves_the_global_generators_alone(made: MadeDataset) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    _take(_loader(made, workers=1), 1)
    _take(_loader(made), 1)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


class _Breaking:
    """A source with some unreadable samples."""

    identities = 0

    def __init__(self, source: PairSource, broken: set[int]) -> None:
        self.log = FaultLog()
        self._source = source
        self._broken = broken

    def __len__(self) -> int:
        return len(self._source)

    def load(self, index: int, rng: np.random.Generator) -> Sample | Fault:
        if index in self._broken:
            return Fault("unreadable image", f"video {index}, frame 0", "a.jpg is cut short; copy it again")
        return self._source.load(index, rng)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_replaced_by_the_next_sample_and_counted(made: MadeDataset, workers: int) -> None:
    whole = open_pairs(made.annotations, made.frames, SMALL)
    loader = PairLoader(
        _Breaking(whole, {1, 2}), SMALL.preprocessing, pairs=1, state=LoaderState(7), workers=workers
    )
    batches = _take(loader, 10)
    # In each of two rounds sample 1 is replaced by 2, which fails too, then by 3: three faults per round.
    assert loader.log.counts == {"unreadable image": 6}
    assert loader.log.summary()[0].startswith("6 x unreadable image, first video ")
    assert loader.state.position == 10
    intact = _take(PairLoader(whole, SMALL.preprocessing, pairs=1, state=LoaderState(7)), 10)
    same = [_same([a], [b]) for a, b in zip(batches, intact, strict=True)]
    assert same == [index not in {1, 2} for _, index in _draw_order(whole)]


def _draw_order(source: PairSource) -> list[tuple[int, int]]:
    sampler = EndlessSampler(len(source), LoaderState(7), 10)
    return [(draw.epoch, draw.index) for draw in next(iter(sampler))]


@pytest.mark.parametrize("workers", [0, 1])
def test_strict_or_all_broken_is_refused_in_one_line(made: MadeDataset, workers: int) -> None:
    whole = open_pairs(made.annotations, made.frames, SMALL)
    state = LoaderState(7)
    strict = PairLoader(
        _Breaking(whole, {0, 1, 2, 3, 4}),
        SMALL.preprocessing,
        pairs=2,
        state=state,
        workers=workers,
        strict=True,
    )
    with pytest.raises(DataError, match=r"^video \d, frame 0: a.jpg is cut short; copy it again$"):
        _take(strict, 1)
    loose = PairLoader(
        _Breaking(whole, {0, 1, 2, 3, 4}), SMALL.preprocessing, pairs=2, state=state, workers=workers
    )
    with pytest.raises(
        DataError, match=r"^100 samples in a row cannot be read, the last: video \d, frame 0: "
    ):
        _take(loose, 1)


def test_numbers_that_cannot_be(made: MadeDataset) -> None:
    with pytest.raises(ConfigError, match="workers must be at least 0, got -1"):
        _loader(made, workers=-1)
    with pytest.raises(ConfigError, match="seed must be at least 0"):
        _loader(made, LoaderState(-1))


def test_the_losses_take_what_is_loaded(
    shapes: tuple[MadeDataset, IdolConfig], tiny_config: IdolConfig
) -> None:
    from idol_deploy.model.idol import Idol
    from idol_deploy.objective.criterion import Criterion
    from idol_deploy.train.graph import TrainingGraph

    made, config = shapes
    config = replace(config, model=tiny_config.model)
    torch.manual_seed(0)
    graph = TrainingGraph(Idol(config), Criterion(config.train.loss, config.model.hidden_dim))
    source = open_pairs(made.annotations, made.frames, config, strict=True)
    (batch,) = _take(PairLoader(source, config.preprocessing, pairs=1, state=LoaderState(1)), 1)
    assert all(side % 32 == 0 for side in batch.images.shape[2:])
    with torch.no_grad():
        losses = graph(batch)
    assert torch.isfinite(losses.total)
    assert losses.items > 0


class _Killed(_Drawing):
    """A source with a reader that is killed, as when memory is full."""

    def load(self, index: int, rng: np.random.Generator) -> Fault:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().load(index, rng)


def test_a_killed_worker_is_an_error_that_says_what_to_do() -> None:
    loader = PairLoader(_Killed(), SMALL.preprocessing, pairs=1, state=LoaderState(1), workers=1)
    with pytest.raises(DataError, match=r"a process that loads data was killed, .*; take fewer workers"):
        _take(loader, 1)


def test_what_stops_a_job_leaves_the_workers_to_the_trainer(
    made: MadeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = loader_module._ignore_stop_signals

    def begin_late(worker: int) -> None:
        time.sleep(worker)  # the second starts while the first loads
        begin(worker)

    monkeypatch.setattr(loader_module, "_ignore_stop_signals", begin_late)
    others = multiprocessing.active_children()
    batches = iter(_loader(made, workers=2))
    next(batches)
    workers = [process for process in multiprocessing.active_children() if process not in others]
    assert len(workers) == 2
    for worker, number in itertools.product(workers, (signal.SIGINT, signal.SIGTERM)):
        os.kill(worker.pid, number)
    assert len(list(itertools.islice(batches, 8))) == 8
    batches.close()
    until(lambda: not any(worker.is_alive() for worker in workers))


def test_a_program_ends_with_its_workers_alive(made: MadeDataset) -> None:
    program = f"""
from pathlib import Path
from idol_deploy.config import preset
from idol_deploy.data.loader import LoaderState, PairLoader
from idol_deploy.data.pairs import open_pairs
from dataclasses import replace

config = replace(preset("ytvis19_r50"), classes={SHAPES!r})
source = open_pairs(Path({str(made.annotations)!r}), Path({str(made.frames)!r}), config)
batches = iter(PairLoader(source, config.preprocessing, pairs=1, state=LoaderState(1), workers=2))
next(batches)
raise KeyError("and what failed holds them")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "KeyError: 'and what failed holds them'"
