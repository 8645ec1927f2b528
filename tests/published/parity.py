"""Parity check of our network and runtime against arrays of the published implementation, stage by stage.

Every array of a folder is compared with the PyTorch path and with the exported graph in ONNX Runtime, down to
identities, final scores and mask pixels. `scripts/reference_parity` is the command.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from idol_deploy.config import IdolConfig, preset
from idol_deploy.model.idol import Idol
from idol_deploy.weights.layout import alias_of, is_position_index, published_state
from idol_deploy.weights.reference import make_video, reference_model
from idol_export.graph.adapter import ExportGraph
from idol_export.graph.tracing import probe_to_onnx
from idol_export.verify.decisions import NEAR, DecisionComparison, Decisions
from idol_export.verify.parity import relative_error
from idol_runtime.backends.base import BatchLimit
from idol_runtime.backends.onnxruntime import open_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.config import Preprocessing, StreamConfig
from idol_runtime.pipeline import Pipeline
from idol_runtime.preprocess import Placement
from idol_runtime.tracking.association import NO_TRACK
from idol_runtime.tracking.detection import NetworkOutput
from idol_runtime.tracking.results import FrameResult, VideoResult
from idol_runtime.tracking.rle import decode_rle
from published.arrays import Array, Tag, cuts
from published.paths import FrameTensors, onnx_frame, torch_frame

__all__ = ["ParityRow", "compare_tag"]

_ORDER = ("preprocess", "geometry", "backbone", "neck", "encoder", "decoder", *OUTPUT_NAMES, "masks")
TOLERANCES = {"preprocess": 1e-6, "geometry": 1e-5, "backbone": 1e-5, "neck": 1e-5}
DEFAULT_TOLERANCE = 1e-4
MASK_PIXELS = 1e-3  # largest share of differing pixels
SECOND_SIZE = (90, 150)  # second output size of the mask sums in the folders


@dataclass(frozen=True)
class ParityRow:
    """One line of the report; the names of its fields are those of the JSON report.

    Attributes:
        tag: name of the reference video or unit.
        path: `torch`, `onnx` or `numpy`.
        stage: name of the compared stage.
        error: largest relative error, share of differing pixels, or number of wrong decisions.
        tolerance: largest error that passes.
        compared: number of compared arrays, decisions or pixels.
        near_ties: number of differing decisions that float32 rounding explains; they are no errors.
        detail: array, key or decision with the largest error.
        remark: reason why an array was not compared.
    """

    tag: str
    path: str
    stage: str
    error: float
    tolerance: float
    compared: int
    near_ties: int = 0
    detail: str = ""
    remark: str = ""

    @property
    def passed(self) -> bool:
        """True if the error is a number within the tolerance."""
        return self.error <= self.tolerance


def compare_tag(tag: Tag, progress: Callable[[str], None] = lambda _: None) -> Iterator[ParityRow]:
    """Compare one reference video on both paths; yield the rows.

    Args:
        tag: reference video and its arrays.
        progress: called with the name of each step.
    """
    config = preset(tag.preset)
    progress(f"{tag.name}: building {tag.preset}")
    model = reference_model(config)
    yield _compare_keys(tag, model)
    graph = ExportGraph(model, tag.video[1:3])
    video = np.ascontiguousarray(make_video(*tag.video).transpose(0, 2, 3, 1))
    yield from _compare_path(tag, "torch", config, video, lambda image: torch_frame(model, image), progress)
    progress(f"{tag.name}: exporting to ONNX")
    session = open_session(probe_to_onnx(graph))
    yield from _compare_path(
        tag, "onnx", config, video, lambda image: onnx_frame(graph, session, image), progress
    )


def _compare_keys(tag: Tag, model: Idol) -> ParityRow:
    ours = {key: tuple(tensor.shape) for key, tensor in published_state(model).items()}
    ours |= {alias: shape for key, shape in ours.items() if (alias := alias_of(key))}
    expected = dict(tag.keys)
    if not any(is_position_index(key) for key in expected):
        ours = {key: shape for key, shape in ours.items() if not is_position_index(key)}
    wrong = sorted(key for key in ours | expected if ours.get(key) != expected.get(key)) if expected else []
    remark = "" if expected else "the folder has no key list"
    return ParityRow(tag.name, "torch", "keys", len(wrong), 0, len(expected), 0, ", ".join(wrong[:3]), remark)


@dataclass
class _Replay:
    """A backend that returns outputs which were computed before."""

    outputs: list[NetworkOutput] = field(default_factory=list)
    name: str = "replay"
    reason: str = ""
    graph: None = None
    network_size: tuple[int, int] | None = None
    batch: BatchLimit = field(default_factory=BatchLimit)

    def infer(self, images: NDArray[np.uint8]) -> list[NetworkOutput]:
        return [self.outputs[-1]] * len(images)

    def close(self) -> None:
        self.outputs.clear()


def _compare_path(
    tag: Tag,
    path: str,
    config: IdolConfig,
    video: NDArray[np.uint8],
    run: Callable[[NDArray[np.uint8]], FrameTensors],
    progress: Callable[[str], None],
) -> Iterator[ParityRow]:
    """Run the video once and compare the slices that the arrays hold; yield the rows."""
    tag_cuts, parts = cuts(tag), dict[str, list[list[Array]]]()
    unresized = Preprocessing(short_side=None)
    stream = StreamConfig(config.stream.categories, unresized, config.association, config.video)
    replay = _Replay()
    decisions = _DecisionRows(tag, path, stream, Pipeline(replay, stream))
    decided = "tracker_final/n" in tag.arrays
    for t, image in enumerate(video):
        progress(f"{tag.name}: {path} frame {t + 1}/{len(video)}")
        stages, output = run(image)
        for name, cut in tag_cuts.items():
            if t < cut.frames and cut.needs in stages:
                parts.setdefault(name, []).append([take(stages) for take in cut.readings])
        replay.outputs = [output]
        if decided:
            decisions.add_frame(t, image, output)
    yield from _array_rows(tag, path, parts)
    if decided:
        yield from decisions.rows()


def _array_rows(tag: Tag, path: str, parts: Mapping[str, list[list[Array]]]) -> Iterator[ParityRow]:
    tag_cuts = cuts(tag)
    for stage in _ORDER:
        errors, unread = {}, []
        for name, cut in tag_cuts.items():
            if cut.stage != stage or name not in parts:
                continue
            expected = tag.arrays[name]
            readings = [_joined(list(frames), expected, name) for frames in zip(*parts[name], strict=True)]
            fitting = [ours for ours in readings if ours.shape == expected.shape]
            if fitting or len(readings) == 1:
                errors[name] = min(relative_error(ours, expected) for ours in fitting or readings)
            else:
                unread.append(f"{name} is cut in a way unknown here")
        if errors:
            worst = max(errors, key=lambda name: errors[name])
            tolerance = TOLERANCES.get(stage, DEFAULT_TOLERANCE)
            remark = "; ".join(unread)
            yield ParityRow(tag.name, path, stage, errors[worst], tolerance, len(errors), 0, worst, remark)
        elif unread:
            yield ParityRow(tag.name, path, stage, float("inf"), 0, 0, remark="; ".join(unread))


def _joined(frames: list[Array], expected: Array, name: str) -> Array:
    """Stack the parts of all frames; an array of one frame has no frame axis."""
    joined = frames[0] if expected.ndim == frames[0].ndim else np.stack(frames)
    # Per-layer arrays of the decoder have the frame as their second axis.
    return joined.swapaxes(0, 1) if name.endswith("inter_references") else joined


class _DecisionRows:
    """Comparison of decisions, video results and mask pixels on one path."""

    def __init__(self, tag: Tag, path: str, stream: StreamConfig, pipeline: Pipeline) -> None:
        self._tag, self._path, self._stream, self._pipeline = tag, path, stream, pipeline
        self._comparison = DecisionComparison(stream.association)
        self._video, self._second = VideoResult(stream.video), VideoResult(stream.video)
        self._scores, self._boxes = [0.0], [0.0]
        self._free_run_differs = self._free_run_excused = 0
        self._tracked = 0

    def add_frame(self, t: int, image: NDArray[np.uint8], output: NetworkOutput) -> None:
        expected = self._expected(t)
        detections = self._comparison.add_frame(output, expected)
        n = len(expected.query)
        self._scores.append(relative_error(detections.scores, self._final("scores")[t, :n]))
        self._boxes.append(relative_error(detections.boxes, self._final("boxes_cxcywh")[t, :n]))
        size = (image.shape[0], image.shape[1])
        for video, out in ((self._video, size), (self._second, SECOND_SIZE)):
            placement = Placement(frame=out, network=size, content=size)
            result = FrameResult.from_detections(
                t, detections, expected.ids, placement, self._stream.class_names
            )
            video.add(result)
            if video is self._video:
                self._compare_free_run(result, self._pipeline.step(image))

    def _compare_free_run(self, expected: FrameResult, stepped: FrameResult) -> None:
        """Compare `Pipeline.step`, which does not repeat the expected decisions, with the expected instances."""
        self._tracked += len(expected)
        ours = set(zip(stepped.ids.tolist(), stepped.labels.tolist(), stepped.scores.tolist(), strict=True))
        theirs = set(
            zip(expected.ids.tolist(), expected.labels.tolist(), expected.scores.tolist(), strict=True)
        )
        differs = len(theirs - ours) + len(ours - theirs)
        # In a free run, a near tie may change all later identities; such differences are counted separately.
        if any(part.near_ties for part in self._comparison.parts.values()):
            self._free_run_excused += differs
        else:
            self._free_run_differs += differs

    def _final(self, name: str) -> Array:
        return self._tag.arrays[f"tracker_final/{name}"]

    def _expected(self, t: int) -> Decisions:
        before, n = int(self._final("n_before_mask_nms")[t]), int(self._final("n")[t])
        return Decisions(
            candidates=self._final("query_before_mask_nms")[t, :before].astype(np.int64),
            query=self._final("query")[t, :n].astype(np.int64),
            ids=np.maximum(self._final("ids")[t, :n].astype(np.int64), NO_TRACK),
            labels=self._final("labels")[t, :n].astype(np.int64),
        )

    def rows(self) -> Iterator[ParityRow]:
        for stage, part in self._comparison.parts.items():
            detail = "; ".join(part.errors[:2])
            yield self._row(stage, len(part.errors), 0, part.compared, part.near_ties, detail)
        compared = self._comparison.parts["labels"].compared
        yield self._row("scores", max(self._scores), DEFAULT_TOLERANCE, compared)
        yield self._row("detection boxes", max(self._boxes), DEFAULT_TOLERANCE, compared)
        yield self._row("step ids", self._free_run_differs, 0, self._tracked, self._free_run_excused)
        if "tracker_final/result_row" in self._tag.arrays:
            yield from self._result_rows()
        if "tracker_final/row_masks_packed" in self._tag.arrays:
            yield self._pixel_row()
        if "tracker_final/out90x150_row_mask_sums" in self._tag.arrays:
            yield self._second_size_row()

    def _row(
        self, stage: str, error: float, tolerance: float, compared: int, near_ties: int = 0, detail: str = ""
    ) -> ParityRow:
        return ParityRow(self._tag.name, self._path, stage, error, tolerance, compared, near_ties, detail)

    def _result_rows(self) -> Iterator[ParityRow]:
        rows = {track: row for row, track in enumerate(self._video.tracks)}
        ours = {(rows[i.track], i.label): i.score for i in self._video.instances()}
        keys = zip(self._final("result_row").tolist(), self._final("pred_labels").tolist(), strict=True)
        theirs = dict(zip(keys, self._final("pred_scores").tolist(), strict=True))
        differing = set(ours) ^ set(theirs)
        limit = self._stream.video.class_score
        near = {key for key in differing if abs((ours | theirs)[key] - limit) <= NEAR}
        order_differs = not near and list(ours) != list(theirs)
        yield self._row(
            "video results",
            len(differing - near) + order_differs,
            0,
            len(theirs),
            len(near),
            str(differing - near or ""),
        )
        shared = [key for key in theirs if key in ours]
        error = relative_error(
            np.array([ours[key] for key in shared]), np.array([theirs[key] for key in shared])
        )
        yield self._row("video scores", error, DEFAULT_TOLERANCE, len(shared))

    def _pixel_row(self) -> ParityRow:
        shape = tuple(self._final("row_masks_shape").tolist())
        expected = np.unpackbits(self._final("row_masks_packed"), axis=-1, count=shape[-1]).astype(np.bool_)
        sums = self._final("row_mask_sums")
        differing = pixels = 0
        tracks = list(self._video.tracks.values())
        for row, t in np.argwhere(sums >= 0):
            rle = tracks[row].get(int(t)) if row < len(tracks) else None
            ours = decode_rle(rle) if rle is not None else np.zeros(shape[2:], np.bool_)
            differing += int((ours != expected[row, t]).sum())
            pixels += int(expected[row, t].sum())
        surplus = sum(len(track) for track in tracks) - int((sums >= 0).sum())
        error = differing / max(pixels, 1) if surplus == 0 and len(tracks) == shape[0] else float("inf")
        return self._row("mask pixels", error, MASK_PIXELS, pixels)

    def _second_size_row(self) -> ParityRow:
        expected = self._final("out90x150_row_mask_sums")
        ours = np.full(expected.shape, -1)
        for row, track in enumerate(self._second.tracks.values()):
            for t, rle in track.items():
                if row < len(ours):
                    ours[row, t] = decode_rle(rle).sum()
        present = np.maximum(expected, 0).sum()
        error = float(np.abs(ours - expected).sum() / max(int(present), 1))
        return self._row(f"mask pixels {SECOND_SIZE[0]}x{SECOND_SIZE[1]}", error, MASK_PIXELS, int(present))
