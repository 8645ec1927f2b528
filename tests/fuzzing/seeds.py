"""Valid inputs of the parsers, to mutate."""

import io
import json
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from idol_deploy.config import PRESETS
from idol_deploy.settings import TrainSettings, settings_to_json
from idol_runtime.bundle.bundle import (
    CERTIFICATES,
    GOLDEN_FRAME,
    GRAPHS,
    MANIFEST,
    OUTPUT_NAMES,
    SCHEMA_VERSION,
    WEIGHTS,
    Certificate,
    Certificates,
    GoldenFrame,
    Manifest,
    StageError,
    TensorInfo,
)
from idol_runtime.bundle.certificates import GraphInfo, IdAgreement, PrecisionCertificate
from idol_runtime.bundle.engine_file import EngineInfo, EngineKey
from idol_runtime.config import Category, StreamConfig
from idol_runtime.tracking.rle import encode_rle

__all__ = [
    "CATEGORIES",
    "COCO",
    "COUNTS",
    "LARGE",
    "LINES",
    "MASKS",
    "OLD_TORCH",
    "RESULTS",
    "SAFETENSORS",
    "SIZE",
    "SNAPSHOT_MEMBERS",
    "TINY_ONNX",
    "TORCH",
    "YTVIS",
    "bundle_members",
    "encoded",
    "engine_members",
    "images",
]

SIZE = (4, 6)
TINY_ONNX = (Path(__file__).parents[1] / "data" / "tiny.onnx").read_bytes()


def _mask() -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[1:3, 2:5] = True
    return mask


_RUNS = {"size": [*SIZE], "counts": [9, 2, 2, 2, 2, 2, 5]}
_POLYGON = [[2.0, 1.0, 5.0, 1.0, 5.0, 3.0, 2.0, 3.0]]
MASKS = [encode_rle(_mask()), _RUNS, _POLYGON, None, encode_rle(np.zeros(SIZE, np.bool_))]
CATEGORIES = [{"id": 5, "name": "dog", "supercategory": "animal"}, {"id": 6, "name": "cat"}]
_TRACK = {"id": 7, "video_id": 2, "category_id": 5, "iscrowd": 1, "segmentations": MASKS}
YTVIS = {
    "videos": [
        {"id": 2, "height": 4, "width": 6, "length": 5, "file_names": [f"v/{t}.jpg" for t in range(5)]},
        {"id": 3, "height": 4, "width": 6, "file_names": ["w/0.jpg"]},
    ],
    "categories": CATEGORIES,
    "annotations": [
        _TRACK | {"areas": [10, 20.5, None, None, 0], "occlusion": ["slight_occlusion", *[None] * 4]},
        {"id": 9, "video_id": 3, "category_id": 6, "segmentations": [_POLYGON], "bboxes": [[2, 1, 3, 2]]},
    ],
}
# Sizes at the limits and beyond: a polygon far outside, and runs beyond 2^32.
LARGE = [
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
COCO = {
    "images": [_IMAGE, _IMAGE | {"id": 2}],
    "categories": CATEGORIES,
    "annotations": [_INSTANCE | {"id": i, "segmentation": mask} for i, mask in enumerate(MASKS)],
}
RESULTS = [
    {"video_id": 2, "category_id": 5, "score": 0.5, "segmentations": MASKS},
    {"video_id": 2, "category_id": 6, "score": 0.25, "segmentations": [None, *MASKS[:1], *[None] * 3]},
]
LINES = [
    {
        "frame": t,
        "size": [*SIZE],
        "instances": [{"id": 1, "label": 0, "class": "dog", "score": 0.5, "mask": mask}],
    }
    for t, mask in enumerate(MASKS[:2])
]


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def bundle_members() -> dict[str, bytes]:
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
        precisions={"fp16": GraphInfo("fp16", ("onnxruntime", "tensorrt"), False, True)},
    )
    stages = (StageError("logits", 1e-6, 1e-3),)
    certificate = Certificate(stages, 2, 3, 2, 0, "made up", "none")
    agreement = IdAgreement(1.0, 200, 20, 0.99, 100, "made up")
    tolerances = dict.fromkeys(OUTPUT_NAMES, 0.1)
    reduced = PrecisionCertificate(stages, 2, "onnxruntime", ("vnni",), agreement, tolerances)
    return {
        MANIFEST: msgspec.json.encode(manifest),
        WEIGHTS: b"\x32\x06shared",
        GRAPHS["portable"]: b"graph",
        GRAPHS["fp16"]: b"graph of fp16",
        GOLDEN_FRAME: golden.to_bytes(),
        CERTIFICATES: msgspec.json.encode(Certificates(certificate, precisions={"fp16": (reduced,)})),
    }


def engine_members() -> dict[str, bytes]:
    key = EngineKey("plugin", "a" * 64, "fp32", (1, 1, 1), "", "10.3", "x", "8.7", "1")
    golden = (StageError("boxes", 1e-6, 1e-3),)
    info = EngineInfo(1, key, "", 1024, golden, "2026-01-01", 2.5, (1.0, 1.5))
    return {"engine.json": msgspec.json.encode(info), "plan": bytes(1024), "layers.json": b'{"Layers": []}'}


def _torch_members(contents: object) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _old_torch(contents: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


_PRESET = TrainSettings(PRESETS["edge_synth"])
_STATE = {f"detr.detr.class_embed.{i}.bias": torch.ones(3) for i in range(2)} | {"a.weight": torch.ones(2, 3)}
_SNAPSHOT = {
    "format": "idol-deploy training",
    "format_version": 1,
    "settings": settings_to_json(_PRESET),
    "iteration": 7,
    "model": _STATE,
    "criterion": {},
    "optimiser": {"state": {}},
    "scaler": {},
    "loader": {"seed": 3, "position": 14},
    "chance": [{"torch": torch.zeros(8, dtype=torch.uint8)}],
    "best": 0.5,
}
TORCH = [_torch_members({"model": _STATE}), _torch_members(_STATE)]
SAFETENSORS = save(_STATE, {"format": "pt"})
OLD_TORCH = _old_torch({"model": _STATE})
SNAPSHOT_MEMBERS = _torch_members(_SNAPSHOT)


def images() -> list[bytes]:
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


_ALL = (_mask(), ~_mask(), np.zeros(SIZE, np.bool_))
COUNTS = [encode_rle(mask)["counts"].encode() for mask in _ALL]
