"""A synthetic data set on disk, in the format of OVIS.

    made = write_dataset("build/val", read_library(), standard(), "val", videos=60, seed=1, workers=2)
    VideoPairs.open(made.annotations, made.frames, config)

A folder holds `JPEGImages`, `instances.json`, `vanishing.json` (those videos in which an instance is away for 3 to 9
frames) and `dataset.json` (settings and statistics). Each video is drawn from (seed, split, number) alone, so the
number of workers changes no byte, and a longer data set begins with the shorter one.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.entries import Task, VideoEntries, write_video
from idol_deploy.synth.identities import Library, Split
from idol_deploy.synth.opencv import opencv
from idol_deploy.synth.statistics import summarise, vanishing_of
from idol_runtime.errors import ConfigError, IdolError, OutputError
from idol_runtime.optional import import_optional

__all__ = ["GENERATOR", "LEAST_VANISHED", "SynthDataset", "write_dataset"]

GENERATOR = 2  # raised whenever the same settings give other bytes
LEAST_VANISHED = 3  # frames, of vanishing.json


@dataclass(frozen=True)
class SynthDataset:
    """What was written.

    Attributes:
        annotations: `instances.json`.
        vanishing: `vanishing.json`; None where no video is of that kind.
        frames: the folder that the files' names start from.
        statistics: as `dataset.json` has them.
    """

    annotations: Path
    vanishing: Path | None
    frames: Path
    statistics: dict[str, Any]


def write_dataset(
    folder: str | Path,
    library: Library,
    config: SynthConfig,
    split: Split,
    *,
    videos: int,
    seed: int = 0,
    workers: int = 1,
    preset: str = "",
) -> SynthDataset:
    """Draw videos, and write them when all are done.

    Args:
        folder: where to; may be there if it is empty.
        library: who may appear.
        config: what the videos are like.
        split: whose identities: those to train with, or those held out.
        videos: how many.
        seed: decides everything else.
        workers: processes that draw; 1: this one does.
        preset: what `config` is called, for `dataset.json`.

    Raises:
        ConfigError: a number that cannot be, or settings that no video keeps.
        OutputError: the folder is not empty, or cannot be written.
        SourceError: a cut-out that cannot be read.
        MissingDependencyError: OpenCV or pycocotools is not installed.
        IdolError: a worker was killed.
    """
    for name, value, least in (("videos", videos, 1), ("workers", workers, 1), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")
    opencv()
    import_optional("pycocotools.mask", "pycocotools", "video", "writing masks as RLE")
    with _whole_folder(Path(folder)) as temporary:
        task = Task(config, library, split, seed, temporary / "JPEGImages")
        entries = list(_drawn(task, videos, workers))
        about = {
            "generator": GENERATOR,
            "preset": preset,
            "split": split,
            "seed": seed,
            "config": asdict(config),
            "classes": library.classes,
            "library": library.digest(),
        }
        statistics, some = _write_json(temporary, entries, library, about)
    root = Path(folder)
    vanishing = root / "vanishing.json" if some else None
    return SynthDataset(root / "instances.json", vanishing, root / "JPEGImages", statistics)


def _drawn(task: Task, videos: int, workers: int) -> Iterator[VideoEntries]:
    """In order, with a bar on a terminal."""
    tqdm = import_optional("tqdm", "tqdm", "video", "showing progress").tqdm
    with tqdm(total=videos * task.config.frames, unit="frame", disable=None, desc="synth") as bar:
        for entries in (
            _in_processes(task, videos, workers)
            if workers > 1
            else map(partial(write_video, task), range(videos))
        ):
            bar.update(task.config.frames)
            yield entries


def _in_processes(task: Task, videos: int, workers: int) -> Iterator[VideoEntries]:
    # Not forked: OpenCV's threads don't survive that.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, videos), context, _begin_worker, (task,))
    try:
        yield from pool.map(_in_worker, range(videos))
    except BrokenProcessPool as error:
        raise IdolError("a process that draws videos was killed; take fewer workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


_task: Task | None = None  # of a worker


def _begin_worker(task: Task) -> None:
    global _task
    _task = task
    opencv().setNumThreads(1)


def _in_worker(index: int) -> VideoEntries:
    assert _task is not None
    return write_video(_task, index)


def _write_json(
    root: Path, entries: list[VideoEntries], library: Library, about: dict[str, Any]
) -> tuple[dict[str, Any], bool]:
    """The statistics, and whether there is a `vanishing.json`."""
    classes = dict(enumerate(library.classes, start=1))
    categories = [{"id": number, "name": name} for number, name in classes.items()]

    def write(name: str, chosen: list[VideoEntries]) -> None:
        content = {
            "info": {"description": "synthetic videos of idol-deploy synth", **about},
            "videos": [one.video for one in chosen],
            "annotations": [annotation for one in chosen for annotation in one.annotations],
            "categories": categories,
        }
        (root / name).write_text(json.dumps(content, separators=(",", ":")))

    some = [one for one in entries if vanishing_of(one.video, LEAST_VANISHED)]
    write("instances.json", entries)
    if some:
        write("vanishing.json", some)
    annotations = [annotation for one in entries for annotation in one.annotations]
    statistics = summarise([one.video for one in entries], annotations, classes)
    (root / "dataset.json").write_text(json.dumps(about | {"statistics": statistics}, indent=2) + "\n")
    return statistics, bool(some)


@contextlib.contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder under a temporary name beside the target; it becomes the target, or vanishes on failure."""
    target = Path(os.path.abspath(target))
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise OutputError(f"{target} is there already, and not an empty folder; choose another place")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}-", dir=target.parent))
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}; choose another place"
        ) from error
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)  # mkdtemp made it private
        temporary.replace(target)
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}; choose another place"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
