"""A synthetic data set on disk, in OVIS format.

    dataset = write_dataset("build/val", read_library(), synth_preset("standard"), "val", videos=60, seed=1, workers=2)
    open_pairs(dataset.annotations, dataset.frames, config)

A folder holds `JPEGImages`, `instances.json`, `vanishing.json` (the videos in which an instance is absent for 3 to 9
frames) and `dataset.json` (settings and statistics). Each video is decided by (seed, split, number) alone: the bytes do
not depend on the number of workers, and a longer data set begins with the shorter one.
"""

import contextlib
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.entries import Task, VideoEntries, write_video
from idol_deploy.synth.identities import Library, Split
from idol_deploy.synth.statistics import summarise, vanishing_of
from idol_deploy.synth.textures import opencv
from idol_runtime.errors import ConfigError, IdolError, OutputError
from idol_runtime.optional import import_optional

__all__ = ["SynthDataset", "write_dataset"]

_GENERATOR = 2  # raised whenever the same settings give other bytes
_LEAST_VANISHED = 3  # frames of the shortest absence in vanishing.json


@dataclass(frozen=True)
class SynthDataset:
    """The files of a data set.

    Attributes:
        annotations: `instances.json`.
        vanishing: `vanishing.json`; None if no video has such an absence.
        frames: folder that the file names are relative to.
        statistics: statistics as in `dataset.json`.
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
    progress: Callable[[int, int], object] | None = None,
) -> SynthDataset:
    """Draw videos and write them. The folder appears when all videos are done.

    Args:
        folder: folder to write; new or empty.
        library: available identities.
        config: settings.
        split: split of the identities.
        videos: number of videos.
        seed: seed of the data set; another seed gives other videos.
        workers: number of processes that draw; 1 draws in this process.
        preset: name of `config`, for `dataset.json`.
        progress: called at the start and after each video with the number of finished frames and that of all frames
            (default: a progress bar on a terminal).

    Raises:
        ConfigError: a number is too small, or the settings allow no video.
        OutputError: the folder is not empty or cannot be written.
        SourceError: a cut-out cannot be read.
        MissingDependencyError: OpenCV or pycocotools is not installed.
        IdolError: a worker was killed.
    """
    for name, value, least in (("videos", videos, 1), ("workers", workers, 1), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")
    opencv()
    import_optional("pycocotools.mask", "pycocotools", "video", "writing masks as RLE")
    with _new_folder(Path(folder)) as temporary:
        task = Task(config, library, split, seed, temporary / "JPEGImages")
        entries = list(_draw(task, videos, workers, progress))
        about = {
            "generator": _GENERATOR,
            "preset": preset,
            "split": split,
            "seed": seed,
            "config": asdict(config),
            "classes": library.classes,
            "library": library.digest(),
        }
        statistics = _write_json(temporary, entries, library, about)
    root = Path(folder)
    vanishing = root / "vanishing.json"
    frames = root / "JPEGImages"
    return SynthDataset(
        root / "instances.json", vanishing if vanishing.exists() else None, frames, statistics
    )


def _draw(
    task: Task, videos: int, workers: int, progress: Callable[[int, int], object] | None
) -> Iterator[VideoEntries]:
    """Yield the entries of each video in order; call `progress`, or show a progress bar on a terminal."""
    tqdm = import_optional("tqdm", "tqdm", "video", "showing progress").tqdm
    draw = partial(write_video, task)
    total, hidden = videos * task.config.frames, None if progress is None else True
    if progress is not None:
        progress(0, total)
    with tqdm(total=total, unit="frame", disable=hidden, desc="synth") as bar:
        drawn = _in_processes(draw, videos, workers) if workers > 1 else map(draw, range(videos))
        for done, entries in enumerate(drawn, 1):
            bar.update(task.config.frames)
            yield entries
            if progress is not None:
                progress(done * task.config.frames, total)


def _in_processes(draw: partial[VideoEntries], videos: int, workers: int) -> Iterator[VideoEntries]:
    context = multiprocessing.get_context("spawn")  # OpenCV's threads do not survive a fork
    pool = ProcessPoolExecutor(min(workers, videos), context, opencv().setNumThreads, (1,))
    try:
        yield from pool.map(draw, range(videos))
    except BrokenProcessPool as error:
        raise IdolError("a process that draws videos was killed; take fewer workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _write_json(
    root: Path, entries: list[VideoEntries], library: Library, about: dict[str, Any]
) -> dict[str, Any]:
    """Write the three JSON files and return the statistics."""
    classes = dict(enumerate(library.classes, start=1))

    def write(name: str, chosen: list[VideoEntries]) -> dict[str, Any]:
        content = {
            "info": {"description": "synthetic videos of idol-deploy synth", **about},
            "videos": [one.video for one in chosen],
            "annotations": [annotation for one in chosen for annotation in one.annotations],
            "categories": [{"id": number, "name": name} for number, name in classes.items()],
        }
        (root / name).write_text(json.dumps(content, separators=(",", ":")))
        return content

    content = write("instances.json", entries)
    if vanishing := [one for one in entries if vanishing_of(one.video, _LEAST_VANISHED)]:
        write("vanishing.json", vanishing)
    statistics = summarise(content["videos"], content["annotations"], classes)
    (root / "dataset.json").write_text(json.dumps(about | {"statistics": statistics}, indent=2) + "\n")
    return statistics


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside the target; it becomes the target on success and is removed on failure."""
    target = Path(os.path.abspath(target))
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise OutputError(f"{target} exists and is not an empty folder; choose another place")
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix, parent = f".{target.name[:40]}-", target.parent
        private = tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
        with private as name:
            temporary = Path(name) / target.name  # its permissions follow the umask
            temporary.mkdir()
            yield temporary
            temporary.replace(target)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write {target}: {reason}; choose another place") from error
