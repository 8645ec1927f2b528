"""A model through all videos of a data set, to one results file.

Each video's results are a file of their own in `<results>.parts`, written whole or not at all: a run that was cut off
goes on where it stopped, and several processes share the videos without talking to each other.
"""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from idol_deploy.data.categories import class_labels, unknown_categories
from idol_deploy.data.ytvis import Video, VisDataset
from idol_deploy.evaluate.shards import Shard
from idol_runtime.config import Category
from idol_runtime.errors import BackendError, ConfigError, DataError, OutputError, SourceError
from idol_runtime.files import replacing, writable_target
from idol_runtime.pipeline import Pipeline
from idol_runtime.sources.images import read_image
from idol_runtime.tracking.results import SubmissionEntry, VideoResult, write_results

__all__ = ["Work", "match_categories", "missed_categories", "require_frames", "run_videos"]

_NAMED = 5  # categories, in what is told of those that the model does not know
_IDENTITY = "run.json"
_LOOK_S = 0.2  # between looks at how far the other processes are
_STALE_S = 30.0  # a process that starts removes what an earlier run left of it; until then it is not believed
_SIGN_S = 5.0  # between a process's signs of life
_SILENT_S = 600.0  # without a sign, it is dead; loading a model takes minutes, and a slow frame one


@dataclass(frozen=True)
class Work:
    """What to compute, and where it goes.

    Attributes:
        dataset: the videos.
        frames: the folder below which their files lie.
        results: the results file.
        identity: what the results depend on; parts of a run with another are refused.
        shard: this process's share.
    """

    dataset: VisDataset
    frames: Path
    results: Path
    identity: Mapping[str, Any]
    shard: Shard = field(default_factory=Shard)

    @property
    def parts(self) -> Path:
        """The folder of finished videos."""
        return self.results.with_name(self.results.name + ".parts")

    @property
    def videos(self) -> tuple[Video, ...]:
        """This process's share, by turns, so that long videos in a row are shared as well."""
        return self.dataset.videos[self.shard.rank :: self.shard.count]

    def part(self, video: Video) -> Path:
        """Where a video's results go."""
        return self.parts / f"{video.id}.json"


def run_videos(work: Work, open_pipeline: Callable[[], Pipeline]) -> bool:
    """Compute what is missing of this process's share; rank 0 then waits for the others and writes the results.

    Args:
        work: what to compute.
        open_pipeline: loads the model; called when all is known to be in place and something is missing.

    Returns:
        Whether this process wrote the results file; the others have nothing more to do.

    Raises:
        ConfigError: there are parts of another run.
        DataError: no class of the model is in the data set, or a frame is of another size than it says.
        SourceError: a frame that is missing or broken; named, with the number of those missing.
        OutputError: the results cannot be written.
        BackendError: another process failed, or was not heard of for ten minutes.
    """
    writable_target(work.results)
    started = _prepare(work)
    try:
        missing = [video for video in work.videos if not work.part(video).is_file()]
        require_frames(missing, work.frames)
        if missing:
            with open_pipeline() as pipeline:
                categories = match_categories(pipeline.config.categories, work.dataset)
                for video, bar in _progress(missing, work):
                    entries = _run_video(pipeline, video, categories, work, bar)
                    _check_identity(work)
                    write_results(work.part(video), entries)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            # Whole or not at all: the first process may look at any moment.
            with (
                contextlib.suppress(OSError, OutputError),
                replacing(_failure(work, work.shard.rank)) as told,
            ):
                told.write_text(str(error))
        if work.shard.count == 1 and not _holds_videos(work.parts):
            shutil.rmtree(work.parts, ignore_errors=True)
        raise
    if work.shard.rank:
        _done(work, work.shard.rank).write_text("")
        return False
    _await_others(work, started)
    _merge(work)
    return True


def match_categories(classes: Sequence[Category], dataset: VisDataset) -> list[int | None]:
    """For each class of the model, its id in the data set; None where the data set does not have it.

    Raises:
        ConfigError, DataError: see `class_labels`.
    """
    labels = class_labels(dataset.categories, [category.name for category in classes], dataset.path)
    ids = {label: dataset_id for dataset_id, label in labels.items()}
    return [ids.get(label) for label in range(len(classes))]


def missed_categories(classes: Sequence[Category], dataset: VisDataset) -> tuple[str, ...]:
    """What to tell of categories that the model does not know: a line, or nothing.

    They stay in the scores, as in those of an evaluation server: AP is a mean over all categories with instances.
    """
    unknown = unknown_categories(dataset.categories, [category.name for category in classes])
    if not unknown:
        return ()
    names = ", ".join(unknown[:_NAMED]) + (", …" if len(unknown) > _NAMED else "")
    many = f"{len(unknown)} of {len(dataset.categories)} categories"
    return (f"{many} are no class of the model ({names}): instances of them count as missed",)


def require_frames(videos: Sequence[Video], frames: Path) -> None:
    """Before hours of work: that every frame is there.

    Raises:
        SourceError: the first that is missing, and how many are.
    """
    if not frames.is_dir():
        raise SourceError(f"the folder of frames {frames} does not exist; check --frames")
    gone = [name for video in videos for name in video.files if not (frames / name).is_file()]
    if gone:
        more = f", and {len(gone) - 1} more frames are missing" if len(gone) > 1 else ""
        raise SourceError(
            f"frame {frames / gone[0]} does not exist{more}; give the folder that {gone[0]} is below"
        )


def _run_video(
    pipeline: Pipeline, video: Video, categories: Sequence[int | None], work: Work, bar: Any
) -> list[SubmissionEntry]:
    pipeline.reset()
    collected = VideoResult(pipeline.config.video)
    told = -math.inf
    for index, name in enumerate(video.files):
        if time.monotonic() - told > _SIGN_S:
            told = time.monotonic()
            _sign(work, work.shard.rank).touch()
        image = read_image(work.frames / name, index=index)
        if image.shape[:2] != video.size:
            raise DataError(
                f"{work.frames / name} is {image.shape[0]}x{image.shape[1]} (height x width) and the annotations say "
                f"{video.size[0]}x{video.size[1]} of video {video.id}; mend them or the frame"
            )
        collected.add(pipeline.step(image))
        bar.update()
    named = [
        replace(category, dataset_id=-k - 1 if dataset_id is None else dataset_id)
        for k, (category, dataset_id) in enumerate(zip(pipeline.config.categories, categories, strict=True))
    ]
    entries = collected.submission(video.id, named)
    dropped = {
        category.dataset_id for category, known in zip(named, categories, strict=True) if known is None
    }
    return [entry for entry in entries if entry["category_id"] not in dropped]


def _prepare(work: Work) -> float:
    """Make the folder of parts, or go on in it; returns when, by the clock of its file system.

    A folder without a video may be of a run that was told of its mistake, and is taken over.
    """
    try:
        work.parts.mkdir(exist_ok=True)
        for marker in (_failure, _done):
            marker(work, work.shard.rank).unlink(missing_ok=True)
        if not _holds_videos(work.parts):
            with replacing(work.parts / _IDENTITY) as temporary:
                temporary.write_text(_identity(work))
        stamp = _sign(work, work.shard.rank)
        stamp.write_text("")
        started = stamp.stat().st_mtime
    except OSError as error:
        raise OutputError(f"cannot write {work.parts}: {error.strerror}; choose another place") from error
    _check_identity(work)
    return started


def _holds_videos(parts: Path) -> bool:
    return any(path.name != _IDENTITY for path in parts.glob("[!.]*.json"))


def _identity(work: Work) -> str:
    return json.dumps(work.identity, sort_keys=True, indent=1)


def _check_identity(work: Work) -> None:
    """Before each part is written as well: another run may have taken over what held none.

    Raises:
        ConfigError: the parts are of another run.
    """
    path = work.parts / _IDENTITY
    other = path.read_text() if path.is_file() else ""
    if other != _identity(work):
        changed = _difference(other, _identity(work))
        raise ConfigError(
            f"{work.parts} holds videos of another run ({changed} differs); remove it, or give another --results"
        )


def _difference(theirs: str, ours: str) -> str:
    try:
        other = json.loads(theirs)
    except ValueError:
        return "run.json"
    keys = [
        key
        for key, value in json.loads(ours).items()
        if not isinstance(other, dict) or other.get(key) != value
    ]
    return ", ".join(keys) or "run.json"


def _failure(work: Work, rank: int) -> Path:
    return work.parts / f"rank{rank}.failed"


def _done(work: Work, rank: int) -> Path:
    # Of this run alone: a process that starts late must find the folder, even if nothing was left to compute.
    return work.parts / f"rank{rank}.{work.shard.run}.done"


def _sign(work: Work, rank: int) -> Path:
    """Touched while the process lives."""
    return work.parts / f"rank{rank}.started"


@dataclass
class _Signs:
    """When another process was last heard of, by this one's clock: those of two machines may differ."""

    work: Work
    rank: int
    stamp: int = 0
    heard: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            stamp = _sign(self.work, self.rank).stat().st_mtime_ns
            if stamp != self.stamp:
                self.stamp, self.heard = stamp, time.monotonic()
        if time.monotonic() - self.heard > _SILENT_S:
            raise BackendError(
                f"process {self.rank} was not heard of for {_SILENT_S:.0f} s: it never started, or was killed, as "
                "happens when memory is full; run all again to go on from here"
            )


def _await_others(work: Work, started: float) -> None:
    """Until every other process has finished its share.

    Raises:
        BackendError: one of them failed, or is silent.
    """
    waiting = list(range(1, work.shard.count))
    signs = {rank: _Signs(work, rank) for rank in waiting}
    since = time.monotonic()
    while waiting := [rank for rank in waiting if not _done(work, rank).is_file()]:
        for rank in waiting:
            signs[rank].check()
            with contextlib.suppress(FileNotFoundError):
                fresh = _failure(work, rank).stat().st_mtime >= started
                if fresh or time.monotonic() - since > _STALE_S:
                    why = _failure(work, rank).read_text()
                    raise BackendError(
                        f"process {rank} failed: {why}; mend that and run again to go on from here"
                    )
        time.sleep(_LOOK_S)


def _merge(work: Work) -> None:
    """All parts in the order of the data set, one in memory at a time."""
    with replacing(work.results) as temporary, temporary.open("w") as file:
        comma = "["
        for video in work.dataset.videos:
            entries = work.part(video).read_text()[1:-1]
            if entries:
                file.write(comma + entries)
                comma = ","
        file.write("]" if comma == "," else "[]")
    shutil.rmtree(work.parts, ignore_errors=True)


class _NoBar:
    def update(self) -> None:
        """Show nothing."""


def _progress(videos: Sequence[Video], work: Work) -> Iterator[tuple[Video, Any]]:
    """Each video with the bar that counts its frames; the bar shows only on a terminal, and of rank 0."""
    done = len(work.videos) - len(videos)
    try:
        from tqdm import tqdm
    except ImportError:
        yield from ((video, _NoBar()) for video in videos)
        return
    total = sum(map(len, videos))
    with tqdm(total=total, unit="frame", disable=True if work.shard.rank else None) as bar:
        for number, video in enumerate(videos, done + 1):
            bar.set_description(f"video {number} of {len(work.videos)}")
            yield video, bar
