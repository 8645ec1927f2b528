"""Endless batches of pairs, in an order that seed and position decide and nothing else.

    loader = PairLoader(source, config.preprocessing, pairs=4, seed=1, workers=2)
    for batch in loader: ...

Every sample has a random generator of its own, seeded with (seed, epoch, number), so that neither the number of workers
nor what came before changes it. The place in the order is one integer, counted over all processes: a run that is
resumed goes on with the next pair, also with another number of processes.
"""

import atexit
import contextlib
import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from idol_deploy.data.faults import Fault, FaultLog
from idol_deploy.data.samples import PairSource, Sample
from idol_deploy.objective.batch import Batch, Pair, collate
from idol_runtime.config import Preprocessing
from idol_runtime.errors import ConfigError, DataError

__all__ = ["Draw", "EndlessSampler", "LoaderState", "PairLoader", "draw_sample", "to_pair"]

_MOST_TRIES = 100  # samples in a row that cannot be read: the disk is gone, not a file
_STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Draw:
    """A sample's place: its number among the source's, and in which round through them.

    Attributes:
        epoch: from 0.
        index: of the source.
    """

    epoch: int
    index: int


@dataclass(frozen=True)
class LoaderState:
    """Where a loader stands.

    Attributes:
        seed: of order and augmentation.
        position: pairs that were handed out, by all processes.
    """

    seed: int
    position: int = 0


class EndlessSampler(Sampler[list[Draw]]):
    """Lists of draws without end: round after round through the source, each in an order of its own.

    Of every `world` consecutive draws, the process `rank` takes one.
    """

    def __init__(self, size: int, state: LoaderState, pairs: int, *, rank: int = 0, world: int = 1) -> None:
        self._size = size
        self._state = state
        self._pairs = pairs
        self._rank = rank
        self._world = world
        self._epoch = -1
        self._order: list[int] = []

    def __iter__(self) -> Iterator[list[Draw]]:
        position = self._state.position + self._rank
        while True:
            yield [self._draw(position + i * self._world) for i in range(self._pairs)]
            position += self._pairs * self._world

    def _draw(self, position: int) -> Draw:
        epoch, place = divmod(position, self._size)
        if epoch != self._epoch:
            order = np.random.default_rng([self._state.seed, epoch]).permutation(self._size)
            self._epoch, self._order = epoch, order.tolist()
        return Draw(epoch, self._order[place])


def _outlive_signals(_: int) -> None:
    """Ctrl-C, and whoever stops a job, reach every process of it; the trainer needs batches to its iteration's end.

    A worker ends when it is told, or finds the trainer gone.
    """
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _beginning_workers() -> Iterator[None]:
    """While workers begin, which do not outlive signals yet: what stops a job comes after this.

    They begin with the signals held back that are here, and keep them so. Those who are left when this process ends are
    killed: it would tell them by SIGTERM, and wait for ever.
    """
    others = multiprocessing.active_children()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        workers = [process for process in multiprocessing.active_children() if process not in others]
        atexit.register(_kill_at_exit, workers)


def _kill_at_exit(processes: Iterable[BaseProcess]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes their end for a fault
    for process in processes:
        process.kill()


@dataclass(frozen=True)
class _Loaded:
    """What a worker sends: a batch, and what it had to pass over; no batch where it gave up."""

    batch: Batch | None
    faults: tuple[Fault, ...]

    def pin_memory(self) -> "_Loaded":
        return _Loaded(self.batch and self.batch.pin_memory(), self.faults)


class PairLoader:
    """Loads, augments and joins pairs, in this process or in workers.

    Iterating goes on from where `state` stands; `state` counts only what was handed out, not what workers have ready.

    Attributes:
        log: what could not be read so far.
    """

    def __init__(
        self,
        source: PairSource,
        preprocessing: Preprocessing,
        *,
        pairs: int,
        state: LoaderState,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        both_directions: bool = False,
        strict: bool = False,
        pin_memory: bool = False,
    ) -> None:
        """Loads nothing yet.

        Args:
            source: of samples.
            preprocessing: says to what multiple frames are padded.
            pairs: in each batch of this process.
            state: where to begin.
            workers: processes that load; 0: this one does.
            rank: of this process.
            world: number of processes.
            both_directions: learn from reference frames as from key frames.
            strict: refuse a frame that cannot be read, instead of taking the next sample.
            pin_memory: hand out batches in page-locked memory, for a CUDA device.

        Raises:
            ConfigError: a number that cannot be.
        """
        for name, value, least in (("pairs", pairs, 1), ("workers", workers, 0), ("seed", state.seed, 0)):
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        self.log = FaultLog(strict)
        self._items = _Items(source, state.seed, strict)
        self._preprocessing = preprocessing
        self._pairs = pairs
        self._state = state
        self._workers = workers
        self._rank = rank
        self._world = world
        self._both_directions = both_directions
        self._pin_memory = pin_memory

    @property
    def state(self) -> LoaderState:
        """Where a loader begins that is to go on from here."""
        return self._state

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end.

        Raises:
            DataError: a frame cannot be read, and it is strict or there were a hundred in a row; a worker died.
        """
        for loaded in self._loaded():
            for fault in loaded.faults:
                self.log.add(fault)
            if loaded.batch is None:
                raise DataError(
                    f"{len(loaded.faults)} samples in a row cannot be read, the last: {loaded.faults[-1]}; is the disk "
                    "still there?"
                )
            given = self._state.position + self._pairs * self._world
            self._state = LoaderState(self._state.seed, given)
            yield loaded.batch

    def _loaded(self) -> Iterator[_Loaded]:
        order = EndlessSampler(len(self._items), self._state, self._pairs, rank=self._rank, world=self._world)
        loader = DataLoader(
            self._items,
            batch_sampler=order,
            num_workers=self._workers,
            collate_fn=self._join,
            pin_memory=self._pin_memory,
            worker_init_fn=_outlive_signals,
            # Else torch draws from the global generator, and a resumed run would drop other units than a whole one.
            generator=torch.Generator(),
        )
        try:
            with _beginning_workers():
                batches = iter(loader)
            yield from batches
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                "a process that loads data was killed, as happens when memory or /dev/shm is full; take fewer workers"
            ) from error

    def _join(self, items: Sequence["_Item"]) -> _Loaded:
        faults = tuple(fault for item in items for fault in item.faults)
        pairs = [item.pair for item in items if item.pair is not None]
        if len(pairs) < len(items):
            lost = next(item for item in items if item.pair is None)
            return _Loaded(None, lost.faults)
        batch = collate(pairs, self._preprocessing, both_directions=self._both_directions)
        return _Loaded(batch, faults)


@dataclass(frozen=True)
class _Item:
    pair: Pair | None
    faults: tuple[Fault, ...]


class _Items(Dataset[_Item]):
    def __init__(self, source: PairSource, seed: int, strict: bool) -> None:
        self._source = source
        self._seed = seed
        self._tries = 1 if strict else _MOST_TRIES

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, draw: Draw) -> _Item:
        sample, faults = draw_sample(self._source, draw, self._seed, self._tries)
        return _Item(None if sample is None else to_pair(sample), faults)


def draw_sample(
    source: PairSource, draw: Draw, seed: int, tries: int = 1
) -> tuple[Sample | None, tuple[Fault, ...]]:
    """A sample, or the next one that can be read, and what was passed over.

    Args:
        source: of samples.
        draw: which one.
        seed: of the run.
        tries: how many to try; None of them may do.
    """
    faults: list[Fault] = []
    for step in range(tries):
        rng = np.random.default_rng([seed, draw.epoch, draw.index, step])
        found = source.load((draw.index + step) % len(source), rng)
        if isinstance(found, Sample):
            return found, tuple(faults)
        faults.append(found)
    return None, tuple(faults)


def to_pair(sample: Sample) -> Pair:
    """A sample as tensors."""
    return Pair(
        key=_channels_first(sample.key.image),
        reference=_channels_first(sample.reference.image),
        labels=torch.from_numpy(sample.labels),
        key_boxes=torch.from_numpy(sample.key.boxes_xyxy),
        reference_boxes=torch.from_numpy(sample.reference.boxes_xyxy),
        masks=torch.from_numpy(sample.key.masks),
        on_key=torch.from_numpy(sample.key.present),
        on_reference=torch.from_numpy(sample.reference.present),
        identities=torch.from_numpy(sample.identities),
        reference_masks=torch.from_numpy(sample.reference.masks),
    )


def _channels_first(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
