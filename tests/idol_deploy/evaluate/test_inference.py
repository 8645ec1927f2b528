"""A pipeline over a data set: results, interrupted runs, and several processes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from idol_deploy.data.ytvis import Video, VisDataset
from idol_deploy.evaluate import shards
from idol_deploy.evaluate.inference import InferenceTask, match_categories, missed_categories, run_videos
from idol_deploy.evaluate.shards import Shard
from idol_runtime.config import Category, Preprocessing, StreamConfig
from idol_runtime.errors import BackendError, ConfigError, DataError, FrameError, SourceError
from idol_runtime.pipeline import Pipeline
from idol_runtime.tracking.detection import NetworkOutput
from idol_runtime.tracking.results import VideoResult
from samples.waiting import LIMIT_S, until

CLASSES = tuple(Category(name, i) for i, name in enumerate(("cat", "dog", "owl"), 1))
CONFIG = StreamConfig(CLASSES, Preprocessing(short_side=None))


class Noise:
    """A backend with outputs that depend on the frame only."""

    name = "noise"
    graph = None
    reason = ""
    network_size = None

    def infer(self, images: np.ndarray) -> list[NetworkOutput]:
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> NetworkOutput:
        rng = np.random.default_rng(int(image.sum()))
        height, width = (-(-side // 32) * 4 for side in image.shape[:2])
        shapes = (5, 3), (5, 4), (5, 16), (8, height, width), (5, 169), (5, 2)
        logits, boxes, *rest = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        return NetworkOutput(logits, 1 / (1 + np.exp(-boxes)), *rest)

    def close(self) -> None:
        pass


class Counting(Pipeline):
    """A pipeline that counts frames and may be interrupted at one."""

    def __init__(self, breaks_at: int | None = None) -> None:
        super().__init__(Noise(), CONFIG)
        self.steps = 0
        self.breaks_at = breaks_at

    def step(self, frame: object) -> object:
        if self.steps == self.breaks_at:
            raise KeyboardInterrupt
        self.steps += 1
        return super().step(frame)


@pytest.fixture
def work(tmp_path: Path) -> InferenceTask:
    """Four videos of two sizes, in a data set with other category ids and without one class."""
    rng = np.random.default_rng(0)
    videos = []
    for i, (frames, size) in enumerate([(3, (40, 56)), (2, (64, 32)), (1, (40, 56)), (4, (40, 56))]):
        names = tuple(f"v{i}/{t}.png" for t in range(frames))
        (tmp_path / "frames" / f"v{i}").mkdir(parents=True)
        for name in names:
            Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(tmp_path / "frames" / name)
        videos.append(Video(30 - i, size, names))
    categories = Category("Dog", 11), Category("cat", 12)
    dataset = VisDataset(tmp_path / "gt.json", tuple(videos), categories)
    return InferenceTask(dataset, tmp_path / "frames", tmp_path / "results.json", {"model": "noise"})


def _by_hand(work: InferenceTask) -> list[dict[str, object]]:
    pipeline, entries = Pipeline(Noise(), CONFIG), []
    for video in work.dataset.videos:
        pipeline.reset()
        collected = VideoResult(CONFIG.video)
        for name in video.files:
            collected.add(pipeline.step(np.asarray(Image.open(work.frames / name))))
        entries += [entry for entry in collected.submission(video.id, CLASSES) if entry["category_id"] != 3]
    ids = {1: 12, 2: 11}
    return [entry | {"category_id": ids[entry["category_id"]]} for entry in entries]


def test_every_video_as_the_pipeline_alone_would(work: InferenceTask) -> None:
    assert run_videos(work, Counting)
    results = json.loads(work.results.read_text())
    assert results == _by_hand(work)
    assert {entry["video_id"] for entry in results} == {27, 28, 29, 30}
    assert not work.parts.exists()


def test_backslashes_in_file_names_are_separators(work: InferenceTask) -> None:
    videos = [
        replace(v, files=tuple(name.replace("/", "\\") for name in v.files)) for v in work.dataset.videos
    ]
    assert run_videos(replace(work, dataset=replace(work.dataset, videos=tuple(videos))), Counting)
    assert json.loads(work.results.read_text()) == _by_hand(work)


def test_a_run_that_was_cut_off_goes_on(work: InferenceTask) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_videos(work, lambda: Counting(breaks_at=4))  # in the second video
    assert not work.results.exists()
    second = Counting()
    assert run_videos(work, lambda: second)
    assert second.steps == 2 + 1 + 4
    assert json.loads(work.results.read_text()) == _by_hand(work)


def test_the_frames_of_unfinished_videos_are_counted(work: InferenceTask) -> None:
    shown: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        run_videos(work, lambda: Counting(breaks_at=4))
    run_videos(replace(work, progress=lambda *counts: shown.append(counts)), Counting)
    assert shown == [(done, 7) for done in range(8)], "the first video is finished"


def test_a_finished_share_loads_no_model(work: InferenceTask) -> None:
    late = replace(work, shard=Shard(1, 2))
    assert not run_videos(late, Counting)
    assert not run_videos(late, lambda: pytest.fail("there is nothing to compute"))


def test_processes_share_the_videos(work: InferenceTask) -> None:
    pipelines = [Counting(), Counting()]
    outcome: list[bool] = []

    def process(rank: int) -> None:
        outcome.append(run_videos(replace(work, shard=Shard(rank, 2)), lambda: pipelines[rank]))

    first = threading.Thread(target=process, args=(0,))
    first.start()
    process(1)
    first.join(LIMIT_S)
    assert sorted(outcome) == [False, True]
    assert [pipeline.steps for pipeline in pipelines] == [3 + 1, 2 + 4]
    assert json.loads(work.results.read_text()) == _by_hand(work)


def test_the_first_process_tells_of_another_that_failed(work: InferenceTask) -> None:
    (work.frames / "v1" / "1.png").unlink()
    errors: list[BaseException] = []

    def first() -> None:
        try:
            run_videos(replace(work, shard=Shard(0, 2)), Counting)
        except BackendError as error:
            errors.append(error)

    waiting = threading.Thread(target=first)
    waiting.start()
    until((work.parts / "rank0.started").exists)
    with pytest.raises(SourceError):
        run_videos(replace(work, shard=Shard(1, 2)), Counting)
    waiting.join(LIMIT_S)
    assert "process 1 failed: frame" in str(errors[0])


def test_a_silent_process_is_not_awaited_for_ever(
    work: InferenceTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_SILENT_S", 0.5)
    work.parts.mkdir()
    (work.parts / "rank1.started").touch()  # as left by a killed process
    with pytest.raises(BackendError, match=r"process 1 gave no sign of life for 0 s.*run all again"):
        run_videos(replace(work, shard=Shard(0, 2)), Counting)
    assert not work.results.exists()


def test_a_slow_process_is_awaited(work: InferenceTask, monkeypatch: pytest.MonkeyPatch) -> None:
    now, looks = 0.0, 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        time.sleep(0.01)

    monkeypatch.setattr(shards, "_SIGN_S", 0.0)
    monkeypatch.setattr(shards, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))

    class Slow(Counting):
        def step(self, frame: object) -> object:
            nonlocal now
            before = looks
            until(lambda: looks >= before + 2 or not first.is_alive())  # so that it has seen the last sign
            now += 0.4 * shards._SILENT_S
            return super().step(frame)

    outcome: list[bool] = []
    first = threading.Thread(
        target=lambda: outcome.append(run_videos(replace(work, shard=Shard(0, 2)), Counting))
    )
    first.start()
    run_videos(replace(work, shard=Shard(1, 2)), Slow)
    first.join(LIMIT_S)
    assert outcome == [True]


def test_why_a_process_failed_is_never_seen_half_written(
    work: InferenceTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work.frames / "v1" / "1.png").unlink()
    failure = work.parts / "rank1.failed"
    write, seen = Path.write_text, []

    def slowly(path: Path, text: str, *arguments: object, **options: object) -> int:
        if "does not exist" in text:
            path.touch()
            seen.append(failure.exists())
        return write(path, text, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", slowly)
    with pytest.raises(SourceError):
        run_videos(replace(work, shard=Shard(1, 2)), Counting)
    assert seen == [False]
    assert "does not exist" in failure.read_text()


def _fail() -> Pipeline:
    raise BackendError("there is no such device")


def test_a_run_that_fails_at_once_leaves_nothing(work: InferenceTask) -> None:
    with pytest.raises(BackendError):
        run_videos(work, _fail)
    with pytest.raises(SourceError):
        run_videos(replace(work, frames=work.frames / "no"), Counting)
    with pytest.raises(KeyboardInterrupt):
        run_videos(work, lambda: Counting(breaks_at=1))
    assert not work.parts.exists()


def test_a_folder_without_a_video_is_taken_over(work: InferenceTask) -> None:
    with pytest.raises(BackendError):
        run_videos(replace(work, shard=Shard(0, 2)), _fail)
    assert (work.parts / "run.json").is_file()
    (work.parts / ".27-half.json").touch()  # as left by a killed process
    other = replace(work, identity={"model": "other"})
    assert run_videos(other, Counting)
    assert json.loads(work.results.read_text()) == _by_hand(work)


def test_a_run_notices_that_another_has_taken_over(work: InferenceTask) -> None:
    class Overtaken(Counting):
        def step(self, frame: object) -> object:
            (work.parts / "run.json").write_text('{"model": "other"}')
            return super().step(frame)

    with pytest.raises(ConfigError, match=r"another run \(model differs\)"):
        run_videos(work, Overtaken)


def test_parts_of_another_run_are_not_mixed_in(work: InferenceTask) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_videos(work, lambda: Counting(breaks_at=4))
    with pytest.raises(ConfigError, match=r"holds videos of another run \(model differs\); remove it"):
        run_videos(replace(work, identity={"model": "other"}), Counting)


def _remove(work: InferenceTask) -> None:
    (work.frames / "v3" / "0.png").unlink()
    (work.frames / "v3" / "2.png").unlink()


def _shrink(work: InferenceTask) -> None:
    Image.new("RGB", (20, 20)).save(work.frames / "v1" / "0.png")


def _spoil(work: InferenceTask) -> None:
    (work.frames / "v0" / "1.png").write_bytes(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (_remove, SourceError, r"v3/0.png does not exist, and 1 more frames are missing; give the folder"),
        (_shrink, DataError, r"v1/0.png is 20x20 .* the annotations say 64x32 for video 29"),
        (_spoil, (SourceError, FrameError), r"v0/1.png"),
    ],
)
def test_a_bad_frame_is_named(
    work: InferenceTask, change: Callable[[InferenceTask], None], kind: type[Exception], message: str
) -> None:
    change(work)
    with pytest.raises(kind, match=message):
        run_videos(work, Counting)
    assert not work.results.exists()


def test_no_folder_of_frames(work: InferenceTask) -> None:
    with pytest.raises(SourceError, match=r"folder of frames .* does not exist; check --frames"):
        run_videos(replace(work, frames=work.frames / "no"), Counting)


def test_classes_and_categories_are_matched_as_training_matches_them(work: InferenceTask) -> None:
    categories = (Category("emu", 1), Category("Great-horned owl", 4), Category("dog", 2))
    classes = tuple(Category(name, i) for i, name in enumerate(("cat", "great_horned_owl", "DOG")))
    dataset = replace(work.dataset, categories=categories)
    assert match_categories(classes, dataset) == [None, 4, 2]
    assert missed_categories(classes, dataset) == (
        "1 of 3 categories are no class of the model (emu): their instances count as missed",
        "1 of 3 classes of the model are no category of gt.json (cat): their results are left out",
    )
    assert missed_categories(classes[::2], work.dataset) == ()
    with pytest.raises(DataError, match=r"none of its categories \(emu\) is a class of the network"):
        match_categories(CLASSES, replace(work.dataset, categories=categories[:1]))
    with pytest.raises(DataError, match="'cat' and 'Cat' differ only in case"):
        match_categories(CLASSES, replace(work.dataset, categories=(Category("cat", 1), Category("Cat", 2))))
