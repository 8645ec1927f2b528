"""Endless batches of pairs, in an order that depends on seed and position only.

    loader = PairLoader(source, config.preprocessing, pairs=4, state=LoaderState(seed=1), workers=2)
    for batch in loader: ...

Each sample has its own random generator, seeded with (seed, epoch, index), so that neither the number of workers nor
earlier samples change it. The position is one integer, counted over all processes: a resumed run continues with the
next pair, also with another number of processes.
"""

import atexit
import contextlib
import functools
import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
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
from idol_runtime.signals import STOP_SIGNALS

__all__ = ["Draw", "EndlessSampler", "LoaderState", "PairLoader", "draw_sample", "to_pair"]

_MAX_TRIES = 100  # unreadable samples in a row that mean a lost disk rather than a broken file

# A pair or batch, None if no sample could be read, and the faults of the skipped samples.
_Item = tuple[Pair | None, tuple[Fault, ...]]
_Loaded = tuple[Batch | None, tuple[Fault, ...]]


@dataclass(frozen=True)
class Draw:
    """A position in the order of samples.

    Attributes:
        epoch: round through the source, from 0.
        index: index of the sample in the source.
    """

    epoch: int
    index: int


@dataclass(frozen=True)
class LoaderState:
    """The position of a loader.

    Attributes:
        seed: seed of order and augmentation.
        position: number of pairs that all processes have returned so far.
    """

    seed: int
    position: int = 0


@dataclass(eq=False)
class EndlessSampler(Sampler[list[Draw]]):
    """Endless lists of draws: round after round through the source, each in its own order.

    Of every `world` consecutive draws, process `rank` takes one.

    Attributes:
        size: number of samples of the source.
        state: position to start from.
        pairs: draws per list.
        rank: number of this process (default: 0).
        world: number of processes (default: 1).
    """

    size: int
    state: LoaderState
    pairs: int
    _: KW_ONLY
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[list[Draw]]:
        position = self.state.position + self.rank
        while True:
            yield [self._draw(position + i * self.world) for i in range(self.pairs)]
            position += self.pairs * self.world

    def _draw(self, position: int) -> Draw:
        epoch, place = divmod(position, self.size)
        return Draw(epoch, _order(self.state.seed, epoch, self.size)[place])


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int) -> list[int]:
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(size).tolist()
    return order


def _ignore_stop_signals(_: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a worker: the trainer needs batches until the end of its iteration.

    These signals reach every process of a job. A worker ends when the trainer ends it, or when the trainer is gone.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _starting_workers() -> Iterator[None]:
    """Block stop signals while workers start, since a new worker does not ignore them yet.

    Workers that are alive at the exit of this process are killed; multiprocessing would send them SIGTERM, which they
    ignore, and wait forever.
    """
    others = multiprocessing.active_children()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        workers = [process for process in multiprocessing.active_children() if process not in others]
        atexit.register(_kill_at_exit, workers)


def _kill_at_exit(processes: Iterable[BaseProcess]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler reports a killed worker as an error
    for process in processes:
        process.kill()


@dataclass(eq=False)
class PairLoader:
    """A loader that reads, augments and collates pairs, in this process or in workers.

    Iteration starts at `state`, which counts returned batches only, not those that workers hold ready.

    Attributes:
        source: source of samples.
        preprocessing: preprocessing of the network, for the multiple that batches are padded to.
        pairs: pairs per batch of this process.
        state: position of the next batch.
        workers: number of loading processes (default: 0, load in this process).
        rank: number of this process (default: 0).
        world: number of processes (default: 1).
        both_directions: train on reference frames as on key frames (default: False).
        strict: refuse an unreadable frame instead of taking the next sample (default: False).
        pin_memory: return batches in page-locked memory, for a CUDA device (default: False).
        log: faults of the samples read so far.

    Raises:
        ConfigError: a number is too small.
    """

    source: PairSource
    preprocessing: Preprocessing
    _: KW_ONLY
    pairs: int
    state: LoaderState
    workers: int = 0
    rank: int = 0
    world: int = 1
    both_directions: bool = False
    strict: bool = False
    pin_memory: bool = False
    log: FaultLog = field(init=False)

    def __post_init__(self) -> None:
        minimum = (("pairs", self.pairs, 1), ("workers", self.workers, 0), ("seed", self.state.seed, 0))
        for name, value, least in minimum:
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        self.log = FaultLog(self.strict)

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches without end.

        Raises:
            DataError: a frame cannot be read and the loader is strict, 100 samples in a row cannot be read, or a worker
                was killed.
        """
        for batch, faults in self._loaded():
            for fault in faults:
                self.log.add(fault)
            if batch is None:
                raise DataError(
                    f"{len(faults)} samples in a row cannot be read, the last: {faults[-1]}; check that the disk is "
                    "connected"
                )
            self.state = replace(self.state, position=self.state.position + self.pairs * self.world)
            yield batch

    def _loaded(self) -> Iterator[_Loaded]:
        loader = DataLoader(
            _Items(self.source, self.state.seed, 1 if self.strict else _MAX_TRIES),
            batch_sampler=EndlessSampler(
                len(self.source), self.state, self.pairs, rank=self.rank, world=self.world
            ),
            num_workers=self.workers,
            collate_fn=functools.partial(_join, self.preprocessing, self.both_directions),
            pin_memory=self.pin_memory,
            worker_init_fn=_ignore_stop_signals,
            # Without it torch draws from the global generator, and dropout of a resumed run would differ.
            generator=torch.Generator(),
        )
        try:
            with _starting_workers():
                batches = iter(loader)
            yield from batches
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                "a process that loads data was killed, probably because memory or /dev/shm is full; take fewer workers"
            ) from error


def _join(preprocessing: Preprocessing, both_directions: bool, items: Sequence[_Item]) -> _Loaded:
    pairs = []
    for pair, faults in items:
        if pair is None:
            return None, faults
        pairs.append(pair)
    batch = collate(pairs, preprocessing, both_directions=both_directions)
    return batch, tuple(fault for _, faults in items for fault in faults)


@dataclass(eq=False)
class _Items(Dataset[_Item]):
    source: PairSource
    seed: int
    tries: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, draw: Draw) -> _Item:
        sample, faults = draw_sample(self.source, draw, self.seed, self.tries)
        return None if sample is None else to_pair(sample), faults


def draw_sample(
    source: PairSource, draw: Draw, seed: int, tries: int = 1
) -> tuple[Sample | None, tuple[Fault, ...]]:
    """Load a sample, or the next one that can be read.

    Args:
        source: source of samples.
        draw: position of the sample.
        seed: seed of the run.
        tries: number of samples to try (default: 1).

    Returns:
        The sample, None if none could be read, and the faults of the skipped ones.
    """
    faults: list[Fault] = []
    for step in range(tries):
        rng = np.random.default_rng([seed, draw.epoch, draw.index, step])
        sample = source.load((draw.index + step) % len(source), rng)
        if isinstance(sample, Sample):
            return sample, tuple(faults)
        faults.append(sample)
    return None, tuple(faults)


def to_pair(sample: Sample) -> Pair:
    """Convert a sample to tensors."""
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
