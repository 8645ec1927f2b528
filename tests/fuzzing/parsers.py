"""The parsers of the project and what makes their inputs. Importing this module imports torch and onnx."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from random import Random

import msgspec

from fuzzing.campaign import Parser
from fuzzing.http_requests import answer, make_body, make_query
from fuzzing.mutate import (
    Seal,
    mutate_archive,
    mutate_bytes,
    mutate_json,
    mutate_safetensors,
    mutate_setting,
    stored_zip,
)
from fuzzing.seeds import (
    CATEGORIES,
    COCO,
    COUNTS,
    LARGE,
    LINES,
    MASKS,
    OLD_TORCH,
    RESULTS,
    SAFETENSORS,
    SIZE,
    SNAPSHOT_MEMBERS,
    TINY_ONNX,
    TORCH,
    YTVIS,
    bundle_members,
    encoded,
    engine_members,
    images,
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
from idol_runtime.bundle.bundle import MANIFEST, Bundle
from idol_runtime.bundle.engine_file import read_info, read_layers, read_plan
from idol_runtime.bundle.sealed_zip import sha256
from idol_runtime.config import override_stream
from idol_runtime.errors import DataError
from idol_runtime.sources.images import open_image
from idol_runtime.tracking.rle import decode_rle

__all__ = ["PARSERS"]


def _make_lines(rng: Random) -> bytes:
    lines = [encoded(line) for line in LINES]
    place = rng.randrange(len(lines))
    lines[place] = mutate_json(rng, lines[place])
    return b"\n".join(lines)


def _json(*seeds: object) -> Callable[[Random], bytes]:
    texts = [encoded(seed) for seed in seeds]
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
        other.write_bytes(encoded(YTVIS))
        _DATASET.append(read_dataset(other))
    read_predictions(path, _DATASET[0])


def _read_tracks(_: bytes, path: Path) -> None:
    read_tracks(path, video_id=2)


def _class_names(data: bytes, path: Path) -> None:
    file = path.with_suffix(".json" if data[:1] == b"{" else ".txt")
    file.write_bytes(data)
    class_names(file)


def _decode_rle(data: bytes, _: Path) -> None:
    decode_rle({"size": [*SIZE], "counts": data})
    decode_rle({"size": [*SIZE], "counts": data.decode("latin-1")})


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


def _sealed(head: str) -> Seal:
    """Return a function that writes a sealed zip with correct hashes, as far as the head can be read."""

    def seal(members: Mapping[str, bytes]) -> bytes:
        members = dict(members)
        try:
            manifest = json.loads(members[head])
            others = {name: data for name, data in members.items() if name != head}
            if "members" in manifest and not manifest["members"]:
                manifest["members"] = {n: {"bytes": len(d), "sha256": sha256(d)} for n, d in others.items()}
                members[head] = encoded(manifest)
            if "plan" in others and manifest.get("plan_sha256") == "":
                manifest |= {"plan_sha256": sha256(others["plan"])}
                members[head] = encoded(manifest)
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


def _read_engine(_: bytes, path: Path) -> None:
    read_plan(path, read_info(path))
    read_layers(path)


# Weights.


def _make_torch(rng: Random) -> bytes:
    if rng.random() < 0.3:
        return mutate_bytes(rng, OLD_TORCH)
    return mutate_archive(rng, rng.choice(TORCH), stored_zip)


def _inspect(_: bytes, path: Path) -> None:
    inspect_checkpoint(path)


def _read_snapshot(_: bytes, path: Path) -> None:
    read_snapshot(path)


# Graphs and images.


def _describe_onnx(data: bytes, path: Path) -> None:
    file = path.with_suffix(".onnx")
    file.write_bytes(data)
    describe(file)


def _open_image(_: bytes, path: Path) -> None:
    open_image(path)


_BUNDLE, _ENGINE = bundle_members(), engine_members()
_SETTINGS = [
    json.loads(settings_to_json(TrainSettings(PRESETS[name])))
    for name in ("edge_synth", "ovis_swin_l", "coco_r50")
]
_ROW = {"size": [*SIZE], "masks": MASKS}
_NAMES = (b"cat\ndog\r\n\nStra\xc3\x9fe\n", encoded({"categories": CATEGORIES}))
_SYNTH = _keys(synth_preset("standard"))
_STREAM_KEYS = [text for text in _TRAINING if text.startswith(("association.", "video."))]

PARSERS: Mapping[str, Parser] = {
    "annotations": Parser(_json(YTVIS, YTVIS, YTVIS, *LARGE), _read_dataset, 4),
    "coco": Parser(_json(COCO), _read_coco, 3),
    "results": Parser(_json(RESULTS), _read_predictions, 2),
    "tracks": Parser(_json(RESULTS), _read_tracks, 2),
    "json lines": Parser(_make_lines, _read_tracks, 2),
    "class names": Parser(_bytes(*_NAMES), _class_names, 1),
    "run lengths": Parser(_bytes(*COUNTS), _decode_rle, 2),
    "masks": Parser(_json(_ROW), _compress, 4),
    "settings": Parser(_json(*_SETTINGS), _settings_from_json, 2),
    "train --set": Parser(_settings(_TRAINING), _override, 2),
    "run --set": Parser(_settings(_STREAM_KEYS), _override_stream, 1),
    "synth --set": Parser(_settings(_SYNTH), _override_synth, 1),
    "bundle": Parser(lambda rng: mutate_archive(rng, _BUNDLE, _sealed(MANIFEST)), _read_bundle, 1.5),
    "engine": Parser(lambda rng: mutate_archive(rng, _ENGINE, _sealed("engine.json")), _read_engine, 1.5),
    "checkpoint": Parser(_make_torch, _inspect, 1),
    "safetensors": Parser(lambda rng: mutate_safetensors(rng, SAFETENSORS), _inspect, 1),
    "snapshot": Parser(lambda rng: mutate_archive(rng, SNAPSHOT_MEMBERS, stored_zip), _read_snapshot, 0.7),
    "onnx": Parser(_bytes(TINY_ONNX), _describe_onnx, 0.5),
    "image": Parser(_bytes(*images()), _open_image, 0.7),
    "http query": Parser(make_query, answer, 5),
    "http body": Parser(make_body, answer, 5),
}
