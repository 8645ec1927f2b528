"""Parity checks of single operators, the tracker and a training step, from `unit_*.npz`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from idol_deploy.config import preset
from idol_deploy.model.deform_attn import ms_deform_attn
from idol_deploy.model.geometry import sine_position
from idol_deploy.model.mask_head import MaskHead, aligned_bilinear
from idol_deploy.model.transformer import inverse_sigmoid
from idol_deploy.weights.reference import make_video, reference_tensor
from idol_export.verify.parity import relative_error
from idol_runtime.config import AssociationConfig, Preprocessing
from idol_runtime.errors import ConfigError
from idol_runtime.preprocess import resize
from idol_runtime.tracking.association import NO_TRACK, Tracker
from idol_runtime.tracking.detection import suppress
from idol_runtime.tracking.masks import decode_masks, mask_iou
from published.arrays import Array, read_arrays
from published.parity import ParityRow
from published.training import compare_matcher, compare_selection, compare_training

__all__ = ["TRACKER_SETTINGS", "compare_units"]

_EXACT = 0.0
_SINGLE = 1e-5  # largest relative error of one float32 module
_YTVIS = preset("ytvis19_r50").association
TRACKER_SETTINGS: Mapping[str, AssociationConfig] = {
    "ytvis": _YTVIS,
    "ovis": replace(_YTVIS, mask_nms_iou=0.3, new_track_score=0.3),
    "no_tw_fw": replace(_YTVIS, temporal="momentum", frame_weight=False),
    "fw_only": replace(_YTVIS, temporal="momentum"),
    "long_no_fw": replace(_YTVIS, frame_weight=False),
    "long_no_temporal": replace(_YTVIS, temporal="score"),
}

Arrays = Mapping[str, Array]


def compare_units(folder: str | Path) -> Iterator[ParityRow]:
    """Compare every `unit_*.npz` in the folder; yield one row per quantity.

    Raises:
        ConfigError: the folder holds no such file, or one that is broken.
    """
    files = {path.stem: path for path in sorted(Path(folder).glob("unit_*.npz"))}
    known = [name for name in files if name in _UNITS]
    if not known:
        names = ", ".join(f"{name}.npz" for name in _UNITS)
        raise ConfigError(f"{folder} holds no unit_*.npz that can be compared; give a folder with {names}")
    for name in known:
        yield from _compare(name, files[name])


def _compare(name: str, file: Path) -> Iterator[ParityRow]:
    try:
        yield from _UNITS[name](read_arrays(file))
    except KeyError as error:
        raise ConfigError(f"{file} lacks the array {error}; copy it again") from error


def _row(
    unit: str, path: str, what: str, ours: Array, expected: Array, tolerance: float = _SINGLE
) -> ParityRow:
    return ParityRow(unit, path, what, relative_error(ours, expected), tolerance, int(expected.size))


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _ms_deform(unit: Arrays) -> Iterator[ParityRow]:
    shapes = tuple((int(h), int(w)) for h, w in unit["shapes"])
    value, locations, weights = (
        _tensor(unit[k]) for k in ("value", "sampling_locations", "attention_weights")
    )
    yield _row(
        "ms_deform",
        "torch",
        "core operator",
        ms_deform_attn(value, shapes, locations, weights).numpy(),
        unit["out"],
    )


@torch.inference_mode()
def _mask_head(unit: Arrays) -> Iterator[ParityRow]:
    expected = unit["mask_logits"][0]
    numpy_logits, torch_logits, start = [], [], 0
    head = MaskHead(256)
    for features, count in zip(unit["mask_feats"], unit["num_insts"], strict=True):
        params, reference = (unit[k][0, start : start + count] for k in ("params", "reference_points_px"))
        numpy_logits.append(decode_masks(features, params, reference))
        torch_logits.append(
            head.decode(*(_tensor(a)[None] for a in (features, params, reference)))[0].numpy()
        )
        start += count
    yield _row("mask_head", "numpy", "dynamic head", np.concatenate(numpy_logits), expected)
    yield _row("mask_head", "torch", "dynamic head", np.concatenate(torch_logits), expected)
    doubled = aligned_bilinear(_tensor(unit["aligned_in"])).numpy()
    yield _row("mask_head", "torch", "aligned bilinear", doubled, unit["aligned_out"])
    state = {
        name: _tensor(reference_tensor(f"detr.mask_head.{name}", tuple(tensor.shape)))
        for name, tensor in head.state_dict().items()
    }
    head.load_state_dict(state)
    features = head.fuse(*(_tensor(unit[f"pyramid{stride}"]) for stride in (8, 16, 32))).numpy()
    yield _row("mask_head", "torch", "mask features", features, unit["mask_head_out"])


def _position(unit: Arrays) -> Iterator[ParityRow]:
    code = sine_position(_tensor(unit["mask"]), unit["pos"].shape[1]).numpy()
    yield _row("pos", "torch", "sine code", code, unit["pos"])
    logit = inverse_sigmoid(_tensor(unit["inv_sigmoid_in"])).numpy()
    yield _row("pos", "torch", "inverse sigmoid", logit, unit["inv_sigmoid_out"])


def _resize(unit: Arrays) -> Iterator[ParityRow]:
    frame = np.ascontiguousarray(make_video(1, 360, 640, 7)[0].transpose(1, 2, 0))
    for name in sorted(key.removesuffix("_shape") for key in unit if key.endswith("_shape")):
        short, longest = map(int, name.removeprefix("r").split("_"))
        resized = resize(frame, Preprocessing(short_side=short, max_side=longest).network_size(360, 640))
        if resized.shape != tuple(unit[f"{name}_shape"]):
            yield ParityRow("resize", "numpy", name, float("inf"), _EXACT, 1, detail=f"shape {resized.shape}")
        else:
            yield _row("resize", "numpy", name, resized[::6, ::6], unit[f"{name}_slice"], _EXACT)


def _mask_iou(unit: Arrays) -> Iterator[ParityRow]:
    binary = unit["a"].reshape(len(unit["a"]), -1) > 0
    yield _row("mask_iou", "numpy", "pairs", mask_iou(binary), unit["iou"], _EXACT)
    with_empty = np.concatenate([np.zeros((2, binary.shape[1]), np.bool_), binary[:1]])
    iou = mask_iou(with_empty)
    yield _row("mask_iou", "numpy", "two empty", iou[0, 1:2], unit["empty_vs_empty"], _EXACT)


def _tracker(unit: Arrays) -> Iterator[ParityRow]:
    for setting, config in TRACKER_SETTINGS.items():
        tracker, wrong, compared = Tracker(config), 0, 0
        for t, count in enumerate(unit["count"].tolist()):
            expected = unit[f"ids_{setting}"][t, :count]
            masks = unit["masks"][t, :count].reshape(count, -1) > 0
            keep = suppress(mask_iou(masks), config.mask_nms_iou)
            wrong += int((keep != (expected != -9)).sum())
            features = [unit[name][t, :count][keep] for name in ("scores", "labels", "boxes", "embeds")]
            ids = tracker.update(*features)
            wrong += int((ids != np.maximum(expected[keep], NO_TRACK)).sum())
            compared += count
        yield ParityRow("tracker", "numpy", setting, wrong, _EXACT, compared)


_UNITS: Mapping[str, Callable[[Arrays], Iterator[ParityRow]]] = {
    "unit_mask_head": _mask_head,
    "unit_mask_iou": _mask_iou,
    "unit_matcher": compare_matcher,
    "unit_ms_deform": _ms_deform,
    "unit_pos": _position,
    "unit_pos_neg": compare_selection,
    "unit_resize": _resize,
    "unit_tracker": _tracker,
    "unit_train": compare_training,
}
