"""Export of a checkpoint to a verified bundle."""

import importlib.metadata
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_deploy.config import IdolConfig
from idol_deploy.data.ytvis import read_dataset
from idol_deploy.model.idol import Idol
from idol_deploy.weights.half import with_half_weights
from idol_deploy.weights.layout import published_state, weights_hash
from idol_deploy.weights.reference import make_video
from idol_export.graph.adapter import ExportGraph
from idol_export.graph.operator import with_fused_attention
from idol_export.graph.tracing import DEFAULT_OPSET, check_opset, describe_io, probe_to_onnx, shipped
from idol_export.graph.weights import in_half_precision, part_weights, without_shared
from idol_export.precision.base import Announce, ReduceOptions
from idol_export.precision.reduce import Reduced, reduce_graph
from idol_export.verify.clips import video_clip
from idol_export.verify.parity import Candidate, torch_stages, verify
from idol_export.verify.reference_graph import ReferenceGraph
from idol_plugins.errors import PluginError
from idol_plugins.ort import ort_library
from idol_runtime.backends.onnxruntime import import_onnxruntime
from idol_runtime.bundle.bundle import (
    CERTIFICATES,
    GOLDEN_FRAME,
    GRAPHS,
    OUTPUT_NAMES,
    SCHEMA_VERSION,
    WEIGHTS,
    Certificates,
    GoldenFrame,
    GraphName,
    Manifest,
    write_bundle,
)
from idol_runtime.errors import ConfigError, FrameError, SourceError
from idol_runtime.files import replacing, writable_target
from idol_runtime.pipeline import Pipeline
from idol_runtime.preprocess import resize
from idol_runtime.sources.opening import open_source

__all__ = ["ExportOptions", "Exported", "export"]

_GOLDEN_SEED = 0
_LARGEST_SIDE = 8192  # pixels; a mistyped frame size could fill the memory
_PACKAGES = ("idol-deploy", "torch", "onnx", "onnxscript", "numpy")


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        frame_size: (H, W) of the source in pixels.
        portable: leave out the graph with our operator. It is also left out, with a note, if the operator's library for
            ONNX Runtime is not built, because the graph could not be verified.
        dynamic_batch: leave the number of frames free, instead of 1.
        opset: version of the ONNX operators.
        verify_source: video or images for the parity check; None: a generated video.
        verify_frames: number of its frames to compare.
        note: caption for annotated videos, for example `untrained weights`.
        store: storage of the weights in the file. `fp16` rounds matrices and kernels in the network before any
            comparison, and halves the file; the graphs still compute in fp32.
        reduce: reduced-precision graphs to add.
    """

    frame_size: tuple[int, int]
    portable: bool = False
    dynamic_batch: bool = False
    opset: int = DEFAULT_OPSET
    verify_source: str | None = None
    verify_frames: int = 4
    note: str = ""
    store: Literal["fp32", "fp16"] = "fp32"
    reduce: ReduceOptions = field(default_factory=ReduceOptions)

    def __post_init__(self) -> None:
        if not 1 <= min(self.frame_size) <= max(self.frame_size) <= _LARGEST_SIDE:
            raise ConfigError(
                f"frame size must be positive and at most {_LARGEST_SIDE} a side, got {self.frame_size[0]}x"
                f"{self.frame_size[1]}; pass HEIGHTxWIDTH, for example 720x1280"
            )
        check_opset(self.opset)
        if self.verify_frames < 1:
            raise ConfigError(f"--verify-frames must be at least 1, got {self.verify_frames}")


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        manifest: manifest of the bundle.
        certificates: certificates of its graphs.
        reason: reason why the graph with our operator is missing; empty if it is there or was not requested.
    """

    manifest: Manifest
    certificates: Certificates
    reason: str = ""


def export(
    model: Idol,
    config: IdolConfig,
    out: str | Path,
    options: ExportOptions,
    announce: Announce = lambda _: None,
) -> Exported:
    """Export a network, verify it against PyTorch, and write a bundle; on any failure no file is left behind.

    Paths, sizes and sources are checked before the network is traced.

    Args:
        model: network to export.
        config: configuration of the network; its stream part goes into the bundle.
        out: path of the `.idol` file.
        options: options of the export.
        announce: called with the name of each step.

    Raises:
        OutputError: `out` cannot be written.
        MissingDependencyError: ONNX Runtime is not installed.
        ConfigError: the network input is too small.
        CheckpointError: fp16 cannot hold a weight.
        SourceError: there are no frames to verify or calibrate on.
        DataError: the annotations are broken.
        FrameError: frames or annotations have another shape than the network input.
        ParityError: a stage is out of tolerance.
    """
    writable_target(out)
    import_onnxruntime()
    task = _Task(model, config, options, announce, _network_size(config, options))
    _check_sources(task)
    if options.store == "fp16":
        task = replace(task, model=with_half_weights(model))
    graphs = _trace(task)
    portable, *plugin = verify(
        task.model,
        graphs.candidates,
        _frames(task),
        task.network_size,
        config.stream,
        source=Path(options.verify_source).name if options.verify_source else "generated video",
    )
    announce("recording the golden frame")
    golden_frame = _golden_frame(task)
    reduced = _reduce(task, graphs, golden_frame)
    certificates = Certificates(
        portable, next(iter(plugin), None), {graph.precision.name: (graph.certificate,) for graph in reduced}
    )
    manifest = _write(task, out, graphs, reduced, golden_frame, certificates)
    return Exported(manifest, certificates, graphs.reason)


@dataclass(frozen=True)
class _Task:
    """The inputs of an export, with (h, w) of the network input before padding."""

    model: Idol
    config: IdolConfig
    options: ExportOptions
    announce: Announce
    network_size: tuple[int, int]


@dataclass(frozen=True)
class _Graphs:
    """The fp32 graphs, the weights that they share, and the own part of each graph.

    `reason` is the reason why the graph with our operator could not be made; empty otherwise.
    """

    candidates: list[Candidate]
    weights: bytes
    parts: list[bytes]
    reason: str


def _network_size(config: IdolConfig, options: ExportOptions) -> tuple[int, int]:
    height, width = config.preprocessing.network_size(*options.frame_size)
    if min(height, width) < 32:
        raise ConfigError(
            f"network input {height}x{width} is too small, its sides must be 32 or more; use a larger --short-side"
        )
    return height, width


def _check_sources(task: _Task) -> None:
    """Check that the verification and calibration data exist and match the network input."""
    options, sizes = task.options, list[tuple[str, str, tuple[int, int]]]()
    for use, path in (("verify", options.verify_source), ("calibrate", options.reduce.calibrate)):
        if path is not None:
            with open_source(path) as source:
                if source.live:
                    raise SourceError(
                        f"--{use} reads {source.name} twice, and it is live; record it and pass the file"
                    )
                sizes.append((use, source.name, source.size))
    if options.reduce.annotations is not None:
        videos = read_dataset(options.reduce.annotations).videos
        name = options.reduce.annotations.name
        sizes += [("score", f"video {video.id} of {name}", video.size) for video in videos]
    for use, name, size in sizes:
        resized = task.config.preprocessing.network_size(*size)
        if resized != task.network_size:
            raise FrameError(
                f"{name} is {_text(size)}, which preprocessing resizes to {_text(resized)} instead of "
                f"{_text(task.network_size)}; {use} on a source of {_text(options.frame_size)}"
            )


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _trace(task: _Task) -> _Graphs:
    """Trace the portable graph and, unless it is left out, the graph with our operator."""
    networks: list[tuple[GraphName, Idol, tuple[Path, ...]]] = [("portable", task.model, ())]
    reason = ""
    if not task.options.portable:
        try:
            networks.append(("plugin", with_fused_attention(task.model), (ort_library(),)))
        except PluginError as error:
            reason = f"left out the graph with our operator, which cannot be verified here: {error}"
    candidates = []
    for name, network, libraries in networks:
        task.announce(f"tracing the network at {_text(task.network_size)}, {name} graph")
        adapter = ExportGraph(network, task.network_size)
        # Identities are verified one frame at a time, so the default batch size is one.
        probe = probe_to_onnx(adapter, dynamic_batch=task.options.dynamic_batch, opset=task.options.opset)
        candidates.append(Candidate(name, probe, _stored(shipped(probe), task), libraries))
    weights, parts = part_weights([candidate.graph for candidate in candidates])
    candidates = [replace(c, graph=weights + part) for c, part in zip(candidates, parts, strict=True)]
    return _Graphs(candidates, weights, parts, reason)


def _stored(graph: bytes, task: _Task) -> bytes:
    return in_half_precision(graph) if task.options.store == "fp16" else graph


def _frames(task: _Task) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames [H, W, 3] for the parity check."""
    source, count = task.options.verify_source, task.options.verify_frames
    generated = _generated_frames(count, task.options.frame_size, seed=1)
    for index, image in enumerate(video_clip(source, count) if source is not None else generated):
        task.announce(f"comparing with PyTorch, frame {index + 1} of {count}")
        yield image


def _generated_frames(count: int, size: tuple[int, int], seed: int) -> Iterator[NDArray[np.uint8]]:
    for image in make_video(count, *size, seed):
        yield np.ascontiguousarray(image.transpose(1, 2, 0))


def _golden_frame(task: _Task) -> GoldenFrame:
    frame = next(_generated_frames(1, task.options.frame_size, _GOLDEN_SEED))
    stages = torch_stages(task.model, resize(frame, task.network_size))
    return GoldenFrame(frame, {name: stages[name] for name in OUTPUT_NAMES})


def _reduce(task: _Task, graphs: _Graphs, golden_frame: GoldenFrame) -> list[Reduced]:
    """Make the reduced-precision graphs, as stored: without the weights that they share with the fp32 graphs."""
    options = task.options.reduce
    reference = ReferenceGraph(
        model=task.model,
        stream=task.config.stream,
        candidate=graphs.candidates[-1],
        frame_size=task.options.frame_size,
        network_size=task.network_size,
        golden_frame=golden_frame,
        video=task.options.verify_source,
        annotations=options.annotations,
        annotation_frames=options.annotation_frames,
    )
    stored = []
    for precision in options.precisions:
        reduced = reduce_graph(precision, reference, options, _frames(task), task.announce)
        part = without_shared(reduced.graph, graphs.weights)
        info = msgspec.structs.replace(reduced.info, shares_weights=part != reduced.graph)
        stored.append(replace(reduced, graph=part, info=info))
    return stored


def _write(
    task: _Task,
    out: str | Path,
    graphs: _Graphs,
    reduced: Sequence[Reduced],
    golden_frame: GoldenFrame,
    certificates: Certificates,
) -> Manifest:
    """Write the bundle and replay its golden frame on each graph that ONNX Runtime may run."""
    members = {
        WEIGHTS: graphs.weights,
        **{GRAPHS[name]: part for name, part in zip(certificates.by_graph(), graphs.parts, strict=True)},
        **{GRAPHS[graph.precision.name]: graph.graph for graph in reduced},
        GOLDEN_FRAME: golden_frame.to_bytes(),
        CERTIFICATES: msgspec.json.encode(certificates),
    }
    task.announce("writing the bundle and replaying its golden frame")
    runnable = (graph.precision.name for graph in reduced if graph.runnable)
    with replacing(out) as temporary:
        manifest = write_bundle(temporary, _manifest(task, graphs, reduced), members)
        for name in (*certificates.by_graph(), *runnable):
            Pipeline.open(temporary, graph=name).close()
    return manifest


def _manifest(task: _Task, graphs: _Graphs, reduced: Sequence[Reduced]) -> Manifest:
    config, options = task.config, task.options
    inputs, outputs = describe_io(graphs.candidates[0].graph)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        preset=config.name,
        stream=config.stream,
        frame_size=options.frame_size,
        network_size=task.network_size,
        padded_size=config.preprocessing.padded_size(*task.network_size),
        dynamic_batch=options.dynamic_batch,
        precision="fp32",
        inputs=inputs,
        outputs=outputs,
        weights_sha256=weights_hash(published_state(task.model)),
        members={},
        versions={
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
            "onnxruntime": import_onnxruntime().__version__,  # of onnxruntime or onnxruntime-gpu
            "opset": str(options.opset),
            "python": platform.python_version(),
        },
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        note=options.note,
        storage=options.store,
        precisions={graph.precision.name: graph.info for graph in reduced},
    )
