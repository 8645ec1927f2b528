"""A model over all videos of a data set, with one results file.

The results of each video are first a file in `<results>.parts`, so that an interrupted run continues where it stopped
and several processes share the videos.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from idol_deploy.data.categories import class_labels, list_some
from idol_deploy.data.faults import frame_path
from idol_deploy.data.ytvis import Video, VisDataset
from idol_deploy.evaluate.shards import PartsFolder, Shard
from idol_runtime.config import Category
from idol_runtime.errors import DataError, SourceError
from idol_runtime.files import replacing, writable_target
from idol_runtime.pipeline import Pipeline
from idol_runtime.sources.images import read_image
from idol_runtime.tracking.results import SubmissionEntry, VideoResult, write_results

__all__ = ["InferenceTask", "match_categories", "missed_categories", "require_frames", "run_videos"]


@dataclass(frozen=True)
class InferenceTask:
    """The videos to run and the results file to write.

    Attributes:
        dataset: data set with the videos.
        frames: folder that the file names of the videos start from.
        results: results file to write.
        identity: everything that the results depend on; parts of a run with another identity are refused.
        shard: share of this process (default: all videos).
        progress: called at the start and after each frame with the number of finished frames and that of all frames
            (default: a progress bar on a terminal).
    """

    dataset: VisDataset
    frames: Path
    results: Path
    identity: Mapping[str, Any]
    shard: Shard = field(default_factory=Shard)
    progress: Callable[[int, int], object] | None = None

    @property
    def parts(self) -> Path:
        """Folder of finished videos."""
        return self.results.with_name(self.results.name + ".parts")

    @property
    def videos(self) -> tuple[Video, ...]:
        """Share of this process: every N-th video, so that consecutive long videos are shared too."""
        return self.dataset.videos[self.shard.rank :: self.shard.count]

    def part(self, video: Video) -> Path:
        """Return the file of a video's results."""
        return self.parts / f"{video.id}.json"


def run_videos(task: InferenceTask, open_pipeline: Callable[[], Pipeline]) -> bool:
    """Compute the missing videos of this process's share; rank 0 then waits for the others and writes the results.

    Args:
        task: videos and results file.
        open_pipeline: loads the model; called after the checks, and only if a video is missing.

    Returns:
        True in the process that wrote the results file; the others are finished.

    Raises:
        ConfigError: the folder has parts of another run.
        DataError: no class of the model is in the data set, or a frame has another size than annotated.
        SourceError: a frame is missing or broken; the message names the first and the number of missing ones.
        OutputError: the results cannot be written.
        BackendError: another process failed, or gave no sign of life for ten minutes.
    """
    writable_target(task.results)
    parts = PartsFolder(task.parts, task.identity, task.shard)
    try:
        missing = [video for video in task.videos if not task.part(video).is_file()]
        require_frames(missing, task.frames)
        if missing:
            with open_pipeline() as pipeline:
                categories = match_categories(pipeline.config.categories, task.dataset)
                for video, update in _progress(missing, task):
                    entries = _run_video(pipeline, video, categories, task, parts, update)
                    parts.check_identity()
                    write_results(task.part(video), entries)
    except BaseException as error:
        parts.fail(error)
        raise
    if task.shard.rank:
        parts.finish()
        return False
    parts.await_others()
    _merge(task)
    parts.remove()
    return True


def match_categories(classes: Sequence[Category], dataset: VisDataset) -> list[int | None]:
    """Return the category id of each class of the model; None for a class that the data set does not have.

    Raises:
        ConfigError, DataError: see `class_labels`.
    """
    labels = class_labels(dataset.categories, [category.name for category in classes], dataset.path)
    ids = {label: dataset_id for dataset_id, label in labels.items()}
    return [ids.get(label) for label in range(len(classes))]


def missed_categories(classes: Sequence[Category], dataset: VisDataset) -> tuple[str, ...]:
    """Return messages on the categories that are no class of the model, and on the classes that are no category.

    The categories remain in the scores, as on an evaluation server: AP is a mean over all categories with instances.

    Raises:
        ConfigError, DataError: see `class_labels`.
    """
    labels = class_labels(dataset.categories, [category.name for category in classes], dataset.path)
    unknown = [category.name for category in dataset.categories if category.dataset_id not in labels]
    surplus = [category.name for label, category in enumerate(classes) if label not in labels.values()]
    messages = []
    if unknown:
        many = f"{len(unknown)} of {len(dataset.categories)} categories"
        names = list_some(unknown, 5)
        messages.append(f"{many} are no class of the model ({names}): their instances count as missed")
    if surplus:
        many = f"{len(surplus)} of {len(classes)} classes of the model"
        names = list_some(surplus, 5)
        messages.append(
            f"{many} are no category of {dataset.path.name} ({names}): their results are left out"
        )
    return tuple(messages)


def require_frames(videos: Sequence[Video], frames: Path) -> None:
    """Check that every frame exists, before hours of work.

    Raises:
        SourceError: a frame is missing; the message names the first and the number of missing ones.
    """
    if not frames.is_dir():
        raise SourceError(f"the folder of frames {frames} does not exist; check --frames")
    missing = [name for video in videos for name in video.files if not frame_path(frames, name).is_file()]
    if missing:
        more = f", and {len(missing) - 1} more frames are missing" if len(missing) > 1 else ""
        raise SourceError(
            f"frame {frames / missing[0]} does not exist{more}; give the folder that {missing[0]} is below"
        )


def _run_video(
    pipeline: Pipeline,
    video: Video,
    categories: Sequence[int | None],
    task: InferenceTask,
    parts: PartsFolder,
    update: Callable[[], object],
) -> list[SubmissionEntry]:
    pipeline.reset()
    result = VideoResult(pipeline.config.video)
    for index, name in enumerate(video.files):
        parts.touch()
        path = frame_path(task.frames, name)
        image = read_image(path, index=index)
        if image.shape[:2] != video.size:
            raise DataError(
                f"{path} is {image.shape[0]}x{image.shape[1]} (height x width) but the annotations say "
                f"{video.size[0]}x{video.size[1]} for video {video.id}; correct the annotations or the frame"
            )
        result.add(pipeline.step(image))
        update()
    # Classes without a category get negative ids, by which their results are dropped.
    named = [
        replace(category, dataset_id=-k - 1 if dataset_id is None else dataset_id)
        for k, (category, dataset_id) in enumerate(zip(pipeline.config.categories, categories, strict=True))
    ]
    return [entry for entry in result.submission(video.id, named) if entry["category_id"] in categories]


def _merge(task: InferenceTask) -> None:
    """Write the results of all videos in the order of the data set, with one video in memory at a time."""
    with replacing(task.results) as temporary, temporary.open("w") as file:
        separator = "["
        for video in task.dataset.videos:
            entries = task.part(video).read_text()[1:-1]
            if entries:
                file.write(separator + entries)
                separator = ","
        file.write("]" if separator == "," else "[]")


def _progress(videos: Sequence[Video], task: InferenceTask) -> Iterator[tuple[Video, Callable[[], object]]]:
    """Yield each video and a function that counts its frames: `task.progress`, or a bar (rank 0, on a terminal)."""
    total = sum(map(len, videos))
    if (progress := task.progress) is not None:
        done = itertools.count(1)
        progress(0, total)
        yield from ((video, lambda: progress(next(done), total)) for video in videos)
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield from ((video, lambda: None) for video in videos)
        return
    first = len(task.videos) - len(videos) + 1
    with tqdm(total=total, unit="frame", disable=True if task.shard.rank else None) as bar:
        for number, video in enumerate(videos, first):
            bar.set_description(f"video {number} of {len(task.videos)}")
            yield video, bar.update
