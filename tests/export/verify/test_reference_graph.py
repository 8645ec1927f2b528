"""Comparison with the fp32 graph, on a data set whose annotations are the fp32 graph's own tracks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from idol_export.precision.registry import PRECISIONS
from idol_export.verify import candidate as candidate_module
from idol_export.verify import reference_graph as module
from idol_export.verify.candidate import Candidate
from idol_export.verify.reference_graph import ReferenceGraph
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.bundle.certificates import AnnotationScores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Toy

FRAMES = 4


@pytest.fixture(scope="module")
def exact(toy: Toy) -> ReferenceGraph:
    candidate = Candidate("portable", toy.probe, toy.graph)
    with Bundle.open(toy.path) as bundle:
        return ReferenceGraph(
            toy.config.stream, candidate, toy.size, toy.size, bundle.golden_frame(), model=toy.model
        )


@pytest.fixture(scope="module")
def truth(
    toy: Toy, exact: ReferenceGraph, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, int]:
    """Return the annotation file, the folder of frames, and the number of instance-frames."""
    folder = tmp_path_factory.mktemp("truth")
    videos: list[dict[str, Any]] = []
    tracks: dict[tuple[int, int], dict[str, Any]] = {}
    seen = 0
    with exact.pipeline(exact.candidate) as pipeline:
        for video in (1, 2):
            pipeline.reset()
            names = [f"{video}/{t}.png" for t in range(FRAMES)]
            videos.append({"id": video, "height": toy.size[0], "width": toy.size[1], "file_names": names})
            (folder / str(video)).mkdir()
            for t, frame in enumerate(toy.video(FRAMES, seed=video)):
                Image.fromarray(frame).save(folder / names[t])
                result = pipeline.step(frame)
                seen += len(result)
                for identity, label, mask in zip(result.ids, result.labels, result.masks, strict=True):
                    track = tracks.setdefault((video, int(identity)), _track(video, int(label)))
                    run = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
                    track["segmentations"][t] = {"size": run["size"], "counts": run["counts"].decode()}
                    track["bboxes"][t], track["areas"][t] = coco.toBbox(run).tolist(), int(coco.area(run))
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(toy.config.classes)]
    annotations = [{"id": i + 1, **track} for i, track in enumerate(tracks.values())]
    path = folder / "instances.json"
    path.write_text(json.dumps({"videos": videos, "annotations": annotations, "categories": categories}))
    return path, folder, seen


def _track(video: int, label: int) -> dict[str, Any]:
    lists: dict[str, list[Any]] = {name: [None] * FRAMES for name in ("segmentations", "bboxes", "areas")}
    return {"video_id": video, "category_id": label + 1, "iscrowd": 0, **lists}


def test_a_data_set_is_what_tracks_are_compared_on(
    exact: ReferenceGraph, truth: tuple[Path, Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The video of the parity check may be too short to compare tracks on."""
    annotations, frames, seen = truth
    clip = str(frames / "1")
    monkeypatch.setattr(module, "_INSTANCE_FRAMES", seen)
    scored = replace(exact, video=clip, annotations=annotations, annotation_frames=frames)
    both = scored.agreement(exact.candidate, 0.99)
    assert (both.idf1, both.instance_frames, both.frames, both.source) == (
        1,
        seen,
        2 * FRAMES,
        "instances.json",
    )
    assert both.passed
    alone = replace(exact, video=clip).agreement(exact.candidate, 0.99)
    assert (alone.frames, alone.stopped, alone.source) == (0, True, "1")
    assert not alone.passed, "half of the instances are too few"
    alone = replace(exact, video=clip).agreement(exact.candidate, 0.99, to_end=True)
    assert (alone.idf1, alone.frames, alone.stopped, alone.passed) == (1, FRAMES, False, False)


def test_fp32_is_tracked_once_and_a_comparison_stops_where_it_cannot_pass(
    toy: Toy,
    exact: ReferenceGraph,
    truth: tuple[Path, Path, int],
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Callable[..., bytes],
) -> None:
    annotations, frames, seen = truth
    monkeypatch.setattr(module, "_INSTANCE_FRAMES", seen)
    monkeypatch.setattr(module, "_CHECK_FRAMES", 1)
    shown: list[tuple[object, ...]] = []
    reference = replace(
        exact, annotations=annotations, annotation_frames=frames, announce=lambda *step: shown.append(step)
    )
    wrong = replace(exact.candidate, graph=sabotage(toy.graph, "model.mask_head.lay3.weight", 0.0))
    whole = reference.agreement(wrong, 0.99, to_end=True)
    assert not whole.passed
    assert (whole.frames, whole.stopped) == (2 * FRAMES, False)
    early = reference.agreement(wrong, 0.99)
    assert early.stopped
    assert 0 < early.frames < 2 * FRAMES
    assert whole.idf1 <= early.idf1 < 0.99
    assert early.instance_frames == whole.instance_frames == seen
    fp32 = [step[1:] for step in shown if step[0] == "tracking with the fp32 graph"]
    assert [done for done, _ in fp32] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8], "once, with all frames"
    assert {total for _, total in fp32} == {2 * FRAMES}
    other = [
        done for step, done, _ in shown if step == "comparing the portable graph's tracks with those of fp32"
    ]
    assert max(other) == 2 * FRAMES


def test_scores_are_held_to_those_of_fp32(
    toy: Toy, exact: ReferenceGraph, truth: tuple[Path, Path, int], sabotage: Callable[..., bytes]
) -> None:
    annotations, frames, _ = truth
    reference = replace(exact, annotations=annotations, annotation_frames=frames)
    same = reference.annotation_scores(exact.candidate)
    assert same is not None
    assert (same.ap, same.idf1) == (same.ap_fp32, same.idf1_fp32)
    assert same.idf1 == 1
    assert same.passed
    graph = sabotage(toy.graph, "model.mask_head.lay3.weight", 0.0)
    wrong = reference.annotation_scores(replace(exact.candidate, graph=graph))
    assert wrong is not None
    assert wrong.ap < wrong.ap_fp32 - 0.01
    assert not wrong.passed


def test_without_annotations_there_is_no_score(exact: ReferenceGraph) -> None:
    assert exact.annotation_scores(exact.candidate) is None


def test_scores_of_nothing_prove_nothing() -> None:
    scores: dict[str, Any] = {
        "ap": 0.3,
        "ap_fp32": 0.3,
        "idf1": 0.7,
        "idf1_fp32": 0.7,
        "limit": 0.01,
        "source": "a",
    }
    assert AnnotationScores(**scores).passed
    for lost in (
        {"ap": 0.28},
        {"idf1": 0.6},
        {"ap": 0.0, "ap_fp32": 0.0},
        {"idf1_fp32": 0.005},
        {"ap_fp32": -1.0},
    ):
        assert not AnnotationScores(**{**scores, **lost}).passed, lost


def test_integers_of_tensorrt_are_evaluated_in_fp32(
    exact: ReferenceGraph, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def opened(*_: object, integers: bool, **__: object) -> object:
        asked.append(integers)
        return object()

    monkeypatch.setattr(candidate_module, "open_session", opened)
    for precision in PRECISIONS.values():
        candidate = precision.candidate(exact.candidate, toy.probe)
        candidate.open_graph()
        assert candidate.name == precision.name
    assert asked == [True, True, True, False]
