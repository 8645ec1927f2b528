"""The parsers of the project with valid inputs to mutate. Importing this module imports torch and onnx."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from fuzzing.campaign import Parser
from fuzzing.mutate import (
    Seal,
    mutate_archive,
    mutate_bytes,
    mutate_json,
    mutate_safetensors,
    mutate_setting,
    stored_zip,
)
from idol_deploy.config import PRESETS
from idol_deploy.data.coco import read_coco
from idol_deploy.data.faults import FaultLog
from idol_deploy.data.masks import RunLengths, compress
from idol_deploy.data.ytvis import Track, VisDataset, class_names, read_dataset
from idol_deploy.evaluate.predictions import read_predictions
from idol_deploy.settings import TrainSettings, override_settings, settings_from_json, settings_to_json
from idol_deploy.studies.figure.tracks import read_tracks
from idol_deploy.synth.config import override_synth, synth_preset
from idol_deploy.train.snapshots import read_snapshot
from idol_deploy.weights.checkpoint import inspect_checkpoint
from idol_export.inspection import describe
from idol_runtime.bundle.bundle import (
    CERTIFICATES,
    GOLDEN_FRAME,
    GRAPHS,
    MANIFEST,
    OUTPUT_NAMES,
    SCHEMA_VERSION,
    WEIGHTS,
    Bundle,
    Certificate,
    Certificates,
    GoldenFrame,
    Manifest,
    StageError,
    TensorInfo,
)
from idol_runtime.bundle.certificates import GraphInfo, IdAgreement, PrecisionCertificate
from idol_runtime.bundle.engine_file import EngineInfo, EngineKey, read_info, read_layers, read_plan
from idol_runtime.bundle.sealed_zip import sha256
from idol_runtime.config import Category, StreamConfig, override_stream
from idol_runtime.errors import DataError
from idol_runtime.sources.images import open_image
from idol_runtime.tracking.rle import decode_rle, encode_rle

__all__ = ["PARSERS"]

_SIZE = (4, 6)
_SEEDS = Path(__file__).parents[1] / "data"


def _mask() -> np.ndarray:
    mask = np.zeros(_SIZE, np.bool_)
    mask[1:3, 2:5] = True
    return mask


_RUNS = {"size": [*_SIZE], "counts": [9, 2, 2, 2, 2, 2, 5]}
_POLYGON = [[2.0, 1.0, 5.0, 1.0, 5.0, 3.0, 2.0, 3.0]]
_MASKS = [encode_rle(_mask()), _RUNS, _POLYGON, None, encode_rle(np.zeros(_SIZE, np.bool_))]
_CATEGORIES = [{"id": 5, "name": "dog", "supercategory": "animal"}, {"id": 6, "name": "cat"}]
_TRACK = {"id": 7, "video_id": 2, "category_id": 5, "iscrowd": 1, "segmentations": _MASKS}
_YTVIS = {
    "videos": [
        {"id": 2, "height": 4, "width": 6, "length": 5, "file_names": [f"v/{t}.jpg" for t in range(5)]},
        {"id": 3, "height": 4, "width": 6, "file_names": ["w/0.jpg"]},
    ],
    "categories": _CATEGORIES,
    "annotations": [
        _TRACK | {"areas": [10, 20.5, None, None, 0], "occlusion": ["slight_occlusion", *[None] * 4]},
        {"id": 9, "video_id": 3, "category_id": 6, "segmentations": [_POLYGON], "bboxes": [[2, 1, 3, 2]]},
    ],
}
# Sizes at the limits and beyond: a polygon far outside, and runs beyond 2^32.
_LARGE = [
    {
        "videos": [{"id": 1, "height": height, "width": width, "file_names": ["a.jpg"]}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "video_id": 1, "category_id": 1, "segmentations": [mask]}],
    }
    for height, width, mask in (
        (2**27, 2**27, [[1, 1, 2**30, 1, 5, 5]]),
        (65_535, 4, [[1, 1, 2**19, 1, 5, 5]]),
        (1, 2**33, {"size": [1, 2**33], "counts": [2**33]}),
        (64, 65_535, {"size": [64, 65_535], "counts": [64 * 65_535 - 7, 7]}),
    )
]
_IMAGE = {"id": 1, "height": 4, "width": 6, "file_name": "a.jpg"}
_INSTANCE = {"id": 1, "image_id": 1, "category_id": 5, "bbox": [2, 1, 3, 2.5], "iscrowd": 0}
_COCO = {
    "images": [_IMAGE, _IMAGE | {"id": 2}],
    "categories": _CATEGORIES,
    "annotations": [_INSTANCE | {"id": i, "segmentation": mask} for i, mask in enumerate(_MASKS)],
}
_RESULTS = [
    {"video_id": 2, "category_id": 5, "score": 0.5, "segmentations": _MASKS},
    {"video_id": 2, "category_id": 6, "score": 0.25, "segmentations": [None, *_MASKS[:1], *[None] * 3]},
]
_LINES = [
    {
        "frame": t,
        "size": [*_SIZE],
        "instances": [{"id": 1, "label": 0, "class": "dog", "score": 0.5, "mask": mask}],
    }
    for t, mask in enumerate(_MASKS[:2])
]


def _encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def _make_lines(rng: Random) -> bytes:
    lines = [_encoded(line) for line in _LINES]
    place = rng.randrange(len(lines))
    lines[place] = mutate_json(rng, lines[place])
    return b"\n".join(lines)


def _json(*seeds: object) -> Callable[[Random], bytes]:
    texts = [_encoded(seed) for seed in seeds]
    return lambda rng: mutate_json(rng, rng.choice(texts))


def _bytes(*seeds: bytes) -> Callable[[Random], bytes]:
    return lambda rng: mutate_bytes(rng, rng.choice(seeds))


def _settings(seeds: Sequence[str]) -> Callable[[Random], bytes]:
    return lambda rng: mutate_setting(rng, rng.choice(seeds).encode())


def _keys(owner: object, section: str = "") -> list[str]:
    """Return a valid `key=value` text for every field."""
    values = {field.name: getattr(owner, field.name) for field in fields(owner)}  # type: ignore[arg-type]
    return [
        f"{section}{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for key, value in values.items()
        if not is_dataclass(value)
    ]


# Annotations, results and masks.


def _read_dataset(data: bytes, path: Path) -> None:
    dataset = read_dataset(path, FaultLog(strict=len(data) % 4 == 0), allow_empty=False)
    for video in dataset.videos:
        for track in dataset.tracks(video.id):
            _expand(track)


def _expand(track: Track) -> None:
    for frame in track.masks.frames[:5]:
        assert track.masks.mask(frame).sum() == track.masks.areas[frame]


def _read_coco(_: bytes, path: Path) -> None:
    read_coco(path, FaultLog())


_DATASET: list[VisDataset] = []


def _read_predictions(_: bytes, path: Path) -> None:
    if not _DATASET:
        other = path.with_suffix(".gt")
        other.write_bytes(_encoded(_YTVIS))
        _DATASET.append(read_dataset(other))
    read_predictions(path, _DATASET[0])


def _read_tracks(_: bytes, path: Path) -> None:
    read_tracks(path, video_id=2)


def _class_names(data: bytes, path: Path) -> None:
    file = path.with_suffix(".json" if data[:1] == b"{" else ".txt")
    file.write_bytes(data)
    class_names(file)


def _decode_rle(data: bytes, _: Path) -> None:
    decode_rle({"size": [*_SIZE], "counts": data})
    decode_rle({"size": [*_SIZE], "counts": data.decode("latin-1")})


class _Row(msgspec.Struct):
    size: tuple[int, int]
    masks: list[RunLengths | list[list[float]] | None]


def _compress(data: bytes, _: Path) -> None:
    try:
        row = msgspec.json.decode(data, type=_Row)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return
    if min(row.size) < 1 or max(row.size) > 65_535:  # as the readers of files check
        return
    (masks,) = compress([(row.masks, row.size)])
    if isinstance(masks, DataError):
        raise masks
    for frame in masks.frames[:5]:
        assert masks.mask(frame).sum() == masks.areas[frame]


# Settings.


def _settings_from_json(data: bytes, path: Path) -> None:
    settings = settings_from_json(data, path)
    assert settings_from_json(settings_to_json(settings), path) == settings
    assert settings.network.stream.class_names == settings.network.classes


_PRESET_SETTINGS = TrainSettings(PRESETS["edge_synth"])
_STREAM = PRESETS["ytvis19_r50"].stream
_SECTIONS = {
    "model": _PRESET_SETTINGS.network.model,
    "backbone": _PRESET_SETTINGS.network.model.backbone,
    "preprocessing": _PRESET_SETTINGS.network.preprocessing,
    "association": _PRESET_SETTINGS.network.association,
    "video": _PRESET_SETTINGS.network.video,
    "train": _PRESET_SETTINGS.network.train,
    "loss": _PRESET_SETTINGS.network.train.loss,
    "data": _PRESET_SETTINGS.data,
    "run": _PRESET_SETTINGS.run,
}
_TRAINING = [text for name, owner in _SECTIONS.items() for text in _keys(owner, f"{name}.")]


def _override(data: bytes, _: Path) -> None:
    override_settings(_PRESET_SETTINGS, [data.decode(errors="surrogateescape")])


def _override_stream(data: bytes, _: Path) -> None:
    override_stream(_STREAM, [data.decode(errors="surrogateescape")])


def _override_synth(data: bytes, _: Path) -> None:
    override_synth(synth_preset("standard"), [data.decode(errors="surrogateescape")])


# Bundles and engines.


def _bundle_members() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    shapes = {"logits": (3, 2), "boxes": (3, 4), "embeddings": (3, 4), "mask_features": (8, 4, 4)}
    shapes |= {"mask_params": (3, 169), "mask_reference": (3, 2)}
    outputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    golden = GoldenFrame(rng.integers(0, 256, (16, 24, 3), dtype=np.uint8), outputs)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        preset="tiny",
        stream=StreamConfig((Category("cat", 3), Category("dog", 7))),
        frame_size=(16, 24),
        network_size=(16, 24),
        padded_size=(32, 32),
        dynamic_batch=False,
        precision="fp32",
        inputs=(TensorInfo("image", "uint8", (1, 16, 24, 3)),),
        outputs=tuple(TensorInfo(name, "float32", (1, *shapes[name])) for name in OUTPUT_NAMES),
        weights_sha256="0" * 64,
        members={},
        versions={"idol-deploy": "0"},
        created="2026-01-01T00:00:00Z",
        precisions={"fp16": GraphInfo("fp16", "onnx", False, dict.fromkeys(OUTPUT_NAMES, 0.1), False, True)},
    )
    stages = (StageError("logits", 1e-6, 1e-3),)
    certificate = Certificate(stages, 2, 3, 2, 0, "made up", "none")
    agreement = IdAgreement(1.0, 200, 20, 0.99, 100, "made up")
    reduced = PrecisionCertificate(stages=stages, frames=2, backend="none", agreement=agreement)
    return {
        MANIFEST: msgspec.json.encode(manifest),
        WEIGHTS: b"\x32\x06shared",
        GRAPHS["portable"]: b"graph",
        GRAPHS["fp16"]: b"graph of fp16",
        GOLDEN_FRAME: golden.to_bytes(),
        CERTIFICATES: msgspec.json.encode(Certificates(certificate, precisions={"fp16": reduced})),
    }


def _sealed(head: str) -> Seal:
    """Return a function that writes a sealed zip with correct hashes, as far as the head can be read."""

    def seal(members: Mapping[str, bytes]) -> bytes:
        members = dict(members)
        try:
            manifest = json.loads(members[head])
            others = {name: data for name, data in members.items() if name != head}
            if "members" in manifest and not manifest["members"]:
                manifest["members"] = {n: {"bytes": len(d), "sha256": sha256(d)} for n, d in others.items()}
                members[head] = _encoded(manifest)
            if "plan" in others and manifest.get("plan_sha256") == "":
                manifest |= {"plan_sha256": sha256(others["plan"])}
                members[head] = _encoded(manifest)
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
            pass
        return stored_zip(members, sha256(members.get(head, b"")).encode())

    return seal


def _read_bundle(_: bytes, path: Path) -> None:
    with Bundle.open(path) as bundle:
        for graph in (*bundle.certificates.by_graph(), *bundle.certificates.precisions):
            bundle.graph(graph)
        bundle.golden_frame()
        bundle.manifest.stream.preprocessing.network_size(*bundle.manifest.frame_size)
    describe(path)


def _engine_members() -> dict[str, bytes]:
    key = EngineKey("plugin", "a" * 64, "fp32", (1, 1, 1), "", "10.3", "x", "8.7", "1")
    golden = (StageError("boxes", 1e-6, 1e-3),)
    info = EngineInfo(1, key, "", 1024, golden, "2026-01-01", 2.5, (1.0, 1.5))
    return {"engine.json": msgspec.json.encode(info), "plan": bytes(1024), "layers.json": b'{"Layers": []}'}


def _read_engine(_: bytes, path: Path) -> None:
    read_plan(path, read_info(path))
    read_layers(path)


# Weights.


def _torch_members(contents: object) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _old_torch(contents: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


_STATE = {f"detr.detr.class_embed.{i}.bias": torch.ones(3) for i in range(2)} | {"a.weight": torch.ones(2, 3)}
_SNAPSHOT = {
    "format": "idol-deploy training",
    "format_version": 1,
    "settings": settings_to_json(_PRESET_SETTINGS),
    "iteration": 7,
    "model": _STATE,
    "criterion": {},
    "optimiser": {"state": {}},
    "scaler": {},
    "loader": {"seed": 3, "position": 14},
    "chance": [{"torch": torch.zeros(8, dtype=torch.uint8)}],
    "best": 0.5,
}
_TORCH = [_torch_members({"model": _STATE}), _torch_members(_STATE)]
_SAFE = save(_STATE, {"format": "pt"})
_OLD_TORCH = _old_torch({"model": _STATE})
_SNAPSHOTS = _torch_members(_SNAPSHOT)


def _make_torch(rng: Random) -> bytes:
    if rng.random() < 0.3:
        return mutate_bytes(rng, _OLD_TORCH)
    return mutate_archive(rng, rng.choice(_TORCH), stored_zip)


def _inspect(_: bytes, path: Path) -> None:
    inspect_checkpoint(path)


def _read_snapshot(_: bytes, path: Path) -> None:
    read_snapshot(path)


# Graphs and images.


def _describe_onnx(data: bytes, path: Path) -> None:
    file = path.with_suffix(".onnx")
    file.write_bytes(data)
    describe(file)


def _images() -> list[bytes]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))
    files = []
    for form, mode in (
        ("PNG", "RGB"),
        ("JPEG", "RGB"),
        ("WEBP", "RGB"),
        ("TIFF", "RGB"),
        ("BMP", "RGB"),
        ("PNG", "P"),
    ):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, form)
        files.append(buffer.getvalue())
    return files


def _open_image(_: bytes, path: Path) -> None:
    open_image(path)


_BUNDLE, _ENGINE = _bundle_members(), _engine_members()
_SETTINGS = [
    json.loads(settings_to_json(TrainSettings(PRESETS[name])))
    for name in ("edge_synth", "ovis_swin_l", "coco_r50")
]
_COUNTS = [encode_rle(mask)["counts"].encode() for mask in (_mask(), ~_mask(), np.zeros(_SIZE, np.bool_))]
_ROW = {"size": [*_SIZE], "masks": _MASKS}
_NAMES = (b"cat\ndog\r\n\nStra\xc3\x9fe\n", _encoded({"categories": _CATEGORIES}))
_SYNTH = _keys(synth_preset("standard"))
_STREAM_KEYS = [text for text in _TRAINING if text.startswith(("association.", "video."))]

PARSERS: Mapping[str, Parser] = {
    "annotations": Parser(_json(_YTVIS, _YTVIS, _YTVIS, *_LARGE), _read_dataset, 4),
    "coco": Parser(_json(_COCO), _read_coco, 3),
    "results": Parser(_json(_RESULTS), _read_predictions, 2),
    "tracks": Parser(_json(_RESULTS), _read_tracks, 2),
    "json lines": Parser(_make_lines, _read_tracks, 2),
    "class names": Parser(_bytes(*_NAMES), _class_names, 1),
    "run lengths": Parser(_bytes(*_COUNTS), _decode_rle, 2),
    "masks": Parser(_json(_ROW), _compress, 4),
    "settings": Parser(_json(*_SETTINGS), _settings_from_json, 2),
    "train --set": Parser(_settings(_TRAINING), _override, 2),
    "run --set": Parser(_settings(_STREAM_KEYS), _override_stream, 1),
    "synth --set": Parser(_settings(_SYNTH), _override_synth, 1),
    "bundle": Parser(lambda rng: mutate_archive(rng, _BUNDLE, _sealed(MANIFEST)), _read_bundle, 1.5),
    "engine": Parser(lambda rng: mutate_archive(rng, _ENGINE, _sealed("engine.json")), _read_engine, 1.5),
    "checkpoint": Parser(_make_torch, _inspect, 1),
    "safetensors": Parser(lambda rng: mutate_safetensors(rng, _SAFE), _inspect, 1),
    "snapshot": Parser(lambda rng: mutate_archive(rng, _SNAPSHOTS, stored_zip), _read_snapshot, 0.7),
    "onnx": Parser(_bytes((_SEEDS / "tiny.onnx").read_bytes()), _describe_onnx, 0.5),
    "image": Parser(_bytes(*_images()), _open_image, 0.7),
}
