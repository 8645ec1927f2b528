"""A training run, from its first iteration or from a snapshot to its last iteration.

    with joined("cpu") as processes:
        train(Training(settings, Path("out")), processes, print)

After Ctrl-C, SIGTERM or SIGHUP, a run finishes the iteration, writes a snapshot and stops. A killed run can be resumed
from its last snapshot; on a CPU, its final weights are the same to the last bit as without the interruption.
"""

import contextlib
import signal
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idol_deploy.data.categories import list_some
from idol_deploy.data.loader import LoaderState, PairLoader
from idol_deploy.evaluate.inference import missed_categories
from idol_deploy.objective.batch import Batch
from idol_deploy.settings import TrainSettings
from idol_deploy.train.data import TrainingData, evaluate_holdout, open_training_data
from idol_deploy.train.graph import Announce, TrainingGraph, build_graph, prepare_graph
from idol_deploy.train.log import JsonLines, Progress, TensorBoard, record
from idol_deploy.train.optimiser import restore_state
from idol_deploy.train.processes import Processes
from idol_deploy.train.rng_state import restore_rng, rng_state, seed_rng
from idol_deploy.train.snapshots import Snapshot, SnapshotFolder, read_snapshot
from idol_deploy.train.step import Stepper
from idol_deploy.weights.checkpoint import save_checkpoint
from idol_deploy.weights.layout import published_names, published_state
from idol_runtime.errors import CheckpointError
from idol_runtime.signals import STOP_SIGNALS, handling

__all__ = ["Trained", "Training", "train"]

_Write = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Training:
    """A training task.

    Attributes:
        settings: settings of the run.
        output: folder for settings, log, snapshots and weights.
        weights: checkpoint to start from; None for random initialisation.
        resume: snapshot in `output` to continue from, instead of `weights`.
    """

    settings: TrainSettings
    output: Path
    weights: Path | None = None
    resume: Path | None = None


@dataclass(frozen=True)
class Trained:
    """The result of a training run.

    Attributes:
        iterations: number of iterations done.
        interrupted: True if the run was asked to stop before its end.
        best: highest AP on the held-out videos; None without an evaluation.
        outputs: weight files of the run.
    """

    iterations: int
    interrupted: bool
    best: float | None
    outputs: tuple[Path, ...]


def train(task: Training, processes: Processes, announce: Announce) -> Trained:
    """Run a training task.

    Args:
        task: settings, output folder and start of the run.
        processes: the training processes; each of them calls this function.
        announce: function that prints a message; only the first process uses it.

    Raises:
        ConfigError: settings contradict each other.
        DataError: annotations or frames cannot be used.
        CheckpointError: weights or a snapshot do not fit.
        OutputError: a file cannot be written; the last snapshot is unchanged.
        TrainingError: a loss or gradient is not finite, or another process is lost; the last snapshot is unchanged.
        PluginError: the operator is required, and not built.
        MissingDependencyError: pycocotools or tensorboard is not installed.
    """
    run = _Run(task, processes, announce if processes.first else lambda message: None)
    with _stop_requests() as stop:
        return run.go(stop)


class _Run:
    def __init__(self, task: Training, processes: Processes, announce: Announce) -> None:
        settings = task.settings
        self._settings, self._processes, self._announce = settings, processes, announce
        pairs = settings.pairs_per_batch(processes.shard.count)
        snapshot = None if task.resume is None else read_snapshot(task.resume)
        self._data = self._open_data()
        self._graph = build_graph(settings, self._data.pairs.identities, task.weights, announce)
        self._iteration = 0
        self._best: float | None = None
        state = LoaderState(settings.run.seed)
        if snapshot is not None:
            _load_weights(self._graph, snapshot)
            state = snapshot.loader
        self._graph.to(processes.device)
        prepare_graph(self._graph, settings, announce)
        self._stepper = Stepper(self._graph, settings, processes)
        seed_rng(settings.run.seed, processes.shard.rank)
        if snapshot is not None:
            self._restore(snapshot)
        self._loader = PairLoader(
            self._data.pairs,
            settings.network.preprocessing,
            pairs=pairs,
            state=state,
            workers=settings.data.workers,
            rank=processes.shard.rank,
            world=processes.shard.count,
            both_directions=settings.network.train.both_directions,
            strict=settings.data.strict,
            pin_memory=processes.device.type == "cuda",
        )
        self._folder = SnapshotFolder(task.output, settings.run.keep_last)
        if processes.first:
            self._folder.begin(settings, resumed=snapshot is not None)

    def go(self, stop: Callable[[], bool]) -> Trained:
        train = self._settings.network.train
        outputs: list[Path] = []
        stopped = False
        with contextlib.ExitStack() as resources:
            writers = self._writers(resources) if self._processes.first else []
            batches: Iterator[Batch] = resources.enter_context(closing(iter(self._loader)))  # type: ignore[type-var]
            while self._iteration < train.iterations and not stopped:
                report = self._stepper.step(batches, self._iteration, stop)
                self._iteration += 1
                faults = sum(self._loader.log.counts.values())
                for write in writers:
                    write(record(self._iteration, report, faults))
                stopped = report.stop
                self._evaluate(writers)
                if stopped or self._due(train.checkpoint_period):
                    self._save()
            for line in self._loader.log.summary():
                self._announce(f"skipped: {line}")
        if not stopped and self._processes.first:
            save_checkpoint(self._folder.final, self._graph.model, self._settings.network)
            outputs.append(self._folder.final)
        if self._folder.best.exists():
            outputs.append(self._folder.best)
        return Trained(self._iteration, stopped, self._best, tuple(outputs))

    def _open_data(self) -> TrainingData:
        data = open_training_data(self._settings)
        for line in data.pairs.log.summary():
            self._announce(f"left out: {line}")
        kind = "images" if self._settings.network.train.still_images else "videos"
        self._announce(f"training with {len(data.pairs)} {kind}")
        names = self._settings.network.classes
        unused = [name for label, name in enumerate(names) if label not in data.pairs.labels]
        if unused:
            self._announce(
                f"note: {len(unused)} of {len(names)} classes have no instance to train on ({list_some(unused, 10)}); "
                "if one is no class, such as the root of a tree of categories, remove its category from the annotations"
            )
        if data.held_out is not None and self._settings.run.evaluate_period:
            for line in missed_categories(self._settings.network.stream.categories, data.held_out):
                self._announce(f"evaluating: {line}")
        return data

    def _writers(self, resources: contextlib.ExitStack) -> list[_Write]:
        run, done = self._settings.run, self._iteration
        writers: list[_Write] = [
            resources.enter_context(closing(JsonLines(self._folder.log, after=done))).write
        ]
        if run.tensorboard:
            board = TensorBoard(self._folder.path / "tensorboard", after=done)
            writers.append(resources.enter_context(closing(board)).write)
        iterations = self._settings.network.train.iterations
        progress = Progress(self._announce, iterations, run.log_period, done)
        self._announce = progress.announce
        return [*writers, resources.enter_context(closing(progress)).write]

    def _due(self, period: int) -> bool:
        return self._iteration % period == 0 or self._iteration == self._settings.network.train.iterations

    def _evaluate(self, writers: list[_Write]) -> None:
        period, held_out = self._settings.run.evaluate_period, self._data.held_out
        if not period or held_out is None or not self._due(period):
            return
        self._announce(f"iteration {self._iteration}: evaluating on {len(held_out.videos)} videos")
        frames, model = Path(self._settings.data.frames), self._graph.model
        scores = evaluate_holdout(
            model, held_out, frames, self._folder.path, self._iteration, self._processes
        )
        for write in writers:
            write({"iteration": self._iteration, "scores": scores})
        self._announce(f"iteration {self._iteration}: AP {scores['AP']:.3f}, AP50 {scores['AP50']:.3f}")
        if self._best is None or scores["AP"] > self._best:
            self._best = scores["AP"]
            if self._processes.first:
                save_checkpoint(self._folder.best, model, self._settings.network)

    def _save(self) -> None:
        rng_states = self._processes.gather(rng_state(self._processes.device))
        if not self._processes.first:
            return
        path = self._folder.write(
            Snapshot(
                settings=self._settings,
                iteration=self._iteration,
                model=published_state(self._graph.model),
                criterion=self._graph.criterion.state_dict(),
                optimiser=self._stepper.optimiser.state_dict(),
                scaler=self._stepper.scaler.state_dict(),
                loader=self._loader.state,
                rng_states=rng_states,
                best=self._best,
            )
        )
        self._announce(f"wrote {path}")

    def _restore(self, snapshot: Snapshot) -> None:
        self._iteration, self._best = snapshot.iteration, snapshot.best
        restore_state(self._stepper.optimiser, snapshot.optimiser)
        if snapshot.scaler:
            self._stepper.scaler.load_state_dict(snapshot.scaler)
        shard, device = self._processes.shard, self._processes.device
        if len(snapshot.rng_states) == shard.count:
            restore_rng(snapshot.rng_states[shard.rank], device)
        else:
            self._announce(
                f"note: the run had {len(snapshot.rng_states)} processes and has {shard.count} now; dropout is seeded "
                "anew"
            )
            seed_rng(snapshot.iteration, shard.rank)


def _load_weights(graph: TrainingGraph, snapshot: Snapshot) -> None:
    names = published_names(graph.model)
    try:
        graph.model.load_state_dict({name: snapshot.model[key] for name, key in names.items()})
        graph.criterion.load_state_dict(dict(snapshot.criterion))
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            "the snapshot belongs to another network or training set; resume it with the settings and data of its "
            "start"
        ) from error


@contextlib.contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a stop signal was received; a second Ctrl-C ends the run at once."""
    requested = threading.Event()

    def request(number: int, frame: types.FrameType | None) -> None:
        if requested.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested.set()

    with handling(request, *STOP_SIGNALS):
        yield requested.is_set
