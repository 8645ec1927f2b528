"""Parity of network and tracker with the published arrays, in PyTorch and as exported, and detection of errors.

The full network runs once; folders with errors are compared with its recorded outputs.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from published import parity as module
from published.arrays import ReferenceFolder, Tag
from published.parity import ParityRow, compare_tag
from published.paths import FrameTensors

DECISIONS = ("selection", "mask NMS", "labels", "track ids")
STAGES = (
    *("preprocess", "geometry", "backbone", "neck", "encoder", "decoder", "logits", "boxes", "embeddings"),
    *("mask_features", "mask_params", "masks", *DECISIONS, "scores", "detection boxes", "step ids"),
    *("video results", "video scores", "mask pixels", "mask pixels 90x150"),
)


@pytest.fixture(scope="module")
def small(reference: Path) -> Tag:
    return ReferenceFolder(reference).read("small")


@pytest.fixture(scope="module")
def recorded(small: Tag) -> SimpleNamespace:
    """Return every row, and the outputs of each path for each frame."""
    seen: dict[str, list[FrameTensors]] = {"torch_frame": [], "onnx_frame": []}
    models: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, frames in seen.items():
            patch.setattr(module, name, _recorder(getattr(module, name), frames))
        build = module.reference_model
        patch.setattr(module, "reference_model", lambda config: models.append(build(config)) or models[0])
        rows = list(compare_tag(small))
    return SimpleNamespace(rows=rows, frames=seen, model=models[0])


def _recorder(run: Callable[..., FrameTensors], frames: list[FrameTensors]) -> Callable[..., FrameTensors]:
    def recorded(*arguments: object) -> FrameTensors:
        frames.append(run(*arguments))
        return frames[-1]

    return recorded


@pytest.fixture
def compare(recorded: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Callable[[Tag], list[ParityRow]]:
    """Return a function that compares a tag with the recorded outputs."""

    def replayed(tag: Tag) -> list[ParityRow]:
        for name, frames in recorded.frames.items():
            monkeypatch.setattr(module, name, _replayer(iter(frames)))
        monkeypatch.setattr(module, "reference_model", lambda config: recorded.model)
        monkeypatch.setattr(module, "probe_to_onnx", lambda graph: b"")
        monkeypatch.setattr(module, "open_session", lambda graph: None)
        return list(compare_tag(tag))

    return replayed


def _replayer(frames: Iterator[FrameTensors]) -> Callable[..., FrameTensors]:
    return lambda *_: next(frames)


def _failed(rows: list[ParityRow]) -> dict[str, set[str]]:
    """Return the stages out of tolerance, by path."""
    found: dict[str, set[str]] = {"torch": set(), "onnx": set()}
    for row in rows:
        if not row.passed:
            found[row.path].add(row.stage)
    return found


def _with(tag: Tag, name: str, change: Callable[[np.ndarray], None]) -> Tag:
    """Return the tag with one changed array, the other arrays of its rows, and one array of another stage."""
    array = tag.arrays[name].copy()
    change(array)
    decided = name.startswith("tracker_final/")
    kept = (
        "tracker_final/"
        if decided
        else ("transformer/pos3", "heads/pred_boxes", "transformer/init_reference")
    )
    arrays = {other: array for other, array in tag.arrays.items() if other.startswith(kept)}
    return replace(tag, arrays={**arrays, name: array})


def test_every_row_holds(recorded: SimpleNamespace) -> None:
    rows = recorded.rows
    assert not [row for row in rows if not row.passed]
    for path in ("torch", "onnx"):
        found = [row.stage for row in rows if row.path == path and row.stage != "keys"]
        # Masks and position codes are constants inside the graph.
        assert set(found) == set(STAGES) - ({"geometry"} if path == "onnx" else set())
        assert len(found) == len(set(found))
    assert [row.path for row in rows if row.stage == "keys"] == ["torch"]
    assert all(row.compared for row in rows)


def test_the_recording_says_the_same(
    small: Tag, recorded: SimpleNamespace, compare: Callable[..., list[ParityRow]]
) -> None:
    assert compare(small) == recorded.rows


def _add_one(array: np.ndarray) -> None:
    array.reshape(-1)[0] += 1


def _nan(array: np.ndarray) -> None:
    array.reshape(-1)[-1] = np.nan


def _swap(array: np.ndarray) -> None:
    array[2, :2] = array[2, 1::-1]


def _blot(array: np.ndarray) -> None:
    array[:, :, :40, :10] ^= 255


def _scale(array: np.ndarray) -> None:
    array *= 1.001


def _invert(array: np.ndarray) -> None:
    array[...] = ~array


def _hide(array: np.ndarray) -> None:
    array[0, 0] = -1


def _double(array: np.ndarray) -> None:
    array *= 2


FAULTS = {
    "backbone/res3_slice": (_scale, "backbone"),
    "backbone/res5_stats": (_nan, "backbone"),
    "transformer/memory": (_scale, "encoder"),
    "transformer/mask2": (_invert, "geometry"),
    "transformer/hs_last": (_nan, "decoder"),
    "heads/pred_logits": (_add_one, "logits"),
    "heads/pred_boxes": (_nan, "boxes"),
    "heads/pred_inst_embed": (_scale, "embeddings"),
    "masks_full/pred_masks": (_scale, "masks"),
    "tracker_final/ids": (_swap, "track ids"),
    "tracker_final/labels": (_add_one, "labels"),
    "tracker_final/scores": (_add_one, "scores"),
    "tracker_final/boxes_cxcywh": (_add_one, "detection boxes"),
    "tracker_final/result_row": (_add_one, "video results"),
    "tracker_final/pred_labels": (_add_one, "video results"),
    "tracker_final/pred_scores": (_nan, "video scores"),
    "tracker_final/row_masks_packed": (_blot, "mask pixels"),
    "tracker_final/row_mask_sums": (_hide, "mask pixels"),
    "tracker_final/out90x150_row_mask_sums": (_double, "mask pixels 90x150"),
}
# Stages that differ as a consequence of other identities and classes.
CONSEQUENCES = {"step ids", "video results", "video scores", "mask pixels", "mask pixels 90x150"}


@pytest.mark.parametrize("name", FAULTS)
def test_a_changed_array_fails_its_row(
    small: Tag, compare: Callable[..., list[ParityRow]], name: str
) -> None:
    change, stage = FAULTS[name]
    rows = compare(_with(small, name, change))
    failed = _failed(rows)
    consequences = CONSEQUENCES if name in ("tracker_final/ids", "tracker_final/labels") else set()
    assert {stage} <= failed["torch"] <= {stage, *consequences}
    on_the_way = name.startswith(("backbone/", "transformer/"))  # the graph does not output all of them
    assert failed["onnx"] <= failed["torch"]
    assert on_the_way or failed["onnx"] == failed["torch"]
    first = next(row for row in rows if not row.passed)
    assert first.stage == stage
    assert name.startswith("tracker_final/") or first.detail == name


def test_a_missing_key_fails(small: Tag, compare: Callable[..., list[ParityRow]]) -> None:
    keys = dict(small.keys)
    shape = keys.pop("detr.detr.class_embed.0.bias")
    keys["detr.detr.class_embed.0.biased"] = shape
    failed = [row for row in compare(replace(small, keys=keys, arrays={})) if not row.passed]
    assert [(row.stage, row.error) for row in failed] == [("keys", 2)]
    assert "class_embed.0.bias" in failed[0].detail


def _without(tag: Tag, *prefixes: str) -> Tag:
    kept = {name: array for name, array in tag.arrays.items() if not name.startswith(prefixes)}
    return replace(tag, arrays=kept)


@pytest.mark.parametrize(
    ("prefixes", "gone"),
    [
        (["masks_full/"], {"masks"}),
        (["tracker_final/out90x150"], {"mask pixels 90x150"}),
        (["tracker_final/row"], {"mask pixels"}),
        (["tracker_final/result_row", "tracker_final/pred"], {"video results", "video scores"}),
        (["backbone/"], {"preprocess", "backbone"}),
        (["tracker_final/"], {stage for stage in STAGES if STAGES.index(stage) >= STAGES.index("selection")}),
    ],
)
def test_arrays_that_are_not_there_are_not_compared(
    small: Tag, compare: Callable[..., list[ParityRow]], prefixes: list[str], gone: set[str]
) -> None:
    rows = compare(_without(small, *prefixes))
    assert not [row for row in rows if not row.passed]
    assert set(STAGES) - {row.stage for row in rows} == gone


def test_arrays_of_no_meaning_here_are_left_alone(
    small: Tag, compare: Callable[..., list[ParityRow]]
) -> None:
    more = {"heads/of_tomorrow": np.zeros(3), "tracker_final/of_tomorrow": np.zeros(3)}
    rows = compare(replace(small, arrays={**small.arrays, **more}))
    assert not [row for row in rows if not row.passed]


def test_an_array_of_another_shape_fails(small: Tag, compare: Callable[..., list[ParityRow]]) -> None:
    logits = small.arrays["heads/pred_logits"]
    rows = compare(replace(small, arrays={"heads/pred_logits": logits[:, :299]}))
    assert _failed(rows) == {"torch": {"logits"}, "onnx": {"logits"}}


def test_a_free_run_that_goes_another_way_fails(
    small: Tag, compare: Callable[..., list[ParityRow]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of `Pipeline.step` that the comparison, which repeats the expected decisions, cannot detect."""
    step = module.Pipeline.step

    def forgetful(self: module.Pipeline, image: object) -> object:
        if self._stream._index == 2:
            self._stream.tracker.reset()
        return step(self, image)

    monkeypatch.setattr(module.Pipeline, "step", forgetful)
    assert _failed(compare(small)) == {"torch": {"step ids"}, "onnx": {"step ids"}}
