"""Export of a checkpoint to a verified bundle."""

import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Sequence
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
from idol_export.precision.base import ReduceOptions
from idol_export.precision.reduce import Reduced, reduce_graph, runnable
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
    Manifest,
    write_bundle,
)
from idol_runtime.errors import ConfigError, FrameError
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
                f"frame size must be positive and at most {_LARGEST_SIDE} per side, got {self.frame_size[0]}x"
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
    announce: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Export a network, verify it against PyTorch, and write a bundle; on any failure no file is left behind.

    Args:
        model: network to export.
        config: configuration of the network; its stream part goes into the bundle.
        out: path of the `.idol` file.
        options: options of the export.
        announce: called with the name of each step.

    Raises:
        OutputError: `out` cannot be written; raised before any work, as the next six errors are.
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
    network_size = _network_size(config, options)
    _check_sources(options, network_size, config)
    if options.store == "fp16":
        model = with_half_weights(model)
    traced, reason = _trace(model, network_size, options, announce)
    weights, parts = part_weights([candidate.graph for candidate in traced])
    candidates = [replace(graph, graph=weights + part) for graph, part in zip(traced, parts, strict=True)]
    source = Path(options.verify_source).name if options.verify_source else "generated video"
    frames = _frames(options, announce)
    certified = verify(model, candidates, frames, network_size, config.stream, source=source)
    announce("recording the golden frame")
    reference = _reference(model, config, candidates[-1], network_size, options)
    reduced = [
        reduce_graph(precision, reference, options.reduce, _frames(options, announce), announce)
        for precision in options.reduce.precisions
    ]
    reduced = [_part_reduced(graph, weights, options) for graph in reduced]
    by_name = {
        candidate.name: certificate for candidate, certificate in zip(candidates, certified, strict=True)
    }
    certificates = Certificates(
        **by_name, precisions={graph.precision.name: graph.certificate for graph in reduced}
    )
    members = {
        WEIGHTS: weights,
        **{GRAPHS[name]: part for name, part in zip(certificates.by_graph(), parts, strict=True)},
        **{GRAPHS[graph.precision.name]: graph.graph for graph in reduced},
        GOLDEN_FRAME: reference.golden_frame.to_bytes(),
        CERTIFICATES: msgspec.json.encode(certificates),
    }
    manifest = _manifest(model, config, network_size, candidates[0].graph, reduced, options)
    announce("writing the bundle and replaying its golden frame")
    with replacing(out) as temporary:
        manifest = write_bundle(temporary, manifest, members)
        for name in (*certificates.by_graph(), *runnable(reduced)):
            Pipeline.open(temporary, graph=name).close()
    return Exported(manifest, certificates, reason)


def _network_size(config: IdolConfig, options: ExportOptions) -> tuple[int, int]:
    height, width = config.preprocessing.network_size(*options.frame_size)
    if min(height, width) < 32:
        raise ConfigError(
            f"network input {height}x{width} is too small, its sides must be 32 or more; use a larger --short-side"
        )
    return height, width


def _check_sources(options: ExportOptions, network_size: tuple[int, int], config: IdolConfig) -> None:
    """Check that the verification and calibration data exist and match the network input."""
    sizes: list[tuple[str, str, tuple[int, int]]] = []
    for use, path in (("verify", options.verify_source), ("calibrate", options.reduce.calibrate)):
        if path is not None:
            with open_source(path) as source:
                assert source.size is not None
                sizes.append((use, source.name, source.size))
    if options.reduce.annotations is not None:
        videos = read_dataset(options.reduce.annotations).videos
        name = options.reduce.annotations.name
        sizes += [("score", f"video {video.id} of {name}", video.size) for video in videos]
    for use, name, size in sizes:
        height, width = config.preprocessing.network_size(*size)
        if (height, width) != network_size:
            raise FrameError(
                f"{name} is {size[0]}x{size[1]}, which preprocessing resizes to {height}x{width} instead of "
                f"{network_size[0]}x{network_size[1]}; {use} on a source of {options.frame_size[0]}x"
                f"{options.frame_size[1]}"
            )


def _trace(
    model: Idol, network_size: tuple[int, int], options: ExportOptions, announce: Callable[[str], None]
) -> tuple[list[Candidate], str]:
    """Trace the portable graph and the graph with our operator; return the reason if the latter is left out."""
    networks: list[tuple[str, Idol, tuple[Path, ...]]] = [("portable", model, ())]
    reason = ""
    if not options.portable:
        try:
            networks.append(("plugin", with_fused_attention(model), (ort_library(),)))
        except PluginError as error:
            reason = f"left out the graph with our operator, which cannot be verified here: {error}"
    candidates = []
    for name, network, libraries in networks:
        announce(f"tracing the network at {network_size[0]}x{network_size[1]}, {name} graph")
        graph = ExportGraph(network, network_size)
        # Identities are verified one frame at a time, so the batch size stays 1 by default.
        probe = probe_to_onnx(graph, dynamic_batch=options.dynamic_batch, opset=options.opset)
        candidates.append(Candidate(name, probe, _stored(shipped(probe), options), libraries))
    return candidates, reason


def _frames(options: ExportOptions, announce: Callable[[str], None]) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames [H, W, 3] for the parity check."""
    count = options.verify_frames
    if options.verify_source is None:
        for index, image in enumerate(make_video(count, *options.frame_size, seed=1)):
            announce(f"comparing with PyTorch, frame {index + 1} of {count}")
            yield np.ascontiguousarray(image.transpose(1, 2, 0))
        return
    with open_source(options.verify_source, max_frames=count) as source:
        for index, frame in enumerate(source):
            announce(f"comparing with PyTorch, frame {index + 1} of {count}")
            yield frame.image


def _reference(
    model: Idol,
    config: IdolConfig,
    candidate: Candidate,
    network_size: tuple[int, int],
    options: ExportOptions,
) -> ReferenceGraph:
    """Record the golden frame and return the fp32 graph to compare reduced-precision graphs with."""
    frame = np.ascontiguousarray(make_video(1, *options.frame_size, _GOLDEN_SEED)[0].transpose(1, 2, 0))
    stages = torch_stages(model, resize(frame, network_size))
    return ReferenceGraph(
        model,
        config.stream,
        candidate,
        options.frame_size,
        network_size,
        GoldenFrame(frame, {name: stages[name] for name in OUTPUT_NAMES}),
        options.verify_source,
        options.reduce.annotations,
        options.reduce.annotation_frames,
    )


def _part_reduced(reduced: Reduced, weights: bytes, options: ExportOptions) -> Reduced:
    """Store a reduced-precision graph without the weights that it shares with the fp32 graphs."""
    graph = _stored(reduced.graph, options) if reduced.precision.half_storage else reduced.graph
    part = without_shared(graph, weights)
    info = msgspec.structs.replace(reduced.info, shares_weights=part != graph)
    return replace(reduced, graph=part, info=info)


def _stored(graph: bytes, options: ExportOptions) -> bytes:
    return in_half_precision(graph) if options.store == "fp16" else graph


def _manifest(
    model: Idol,
    config: IdolConfig,
    network_size: tuple[int, int],
    graph: bytes,
    reduced: Sequence[Reduced],
    options: ExportOptions,
) -> Manifest:
    inputs, outputs = describe_io(graph)
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    # The distribution is onnxruntime or onnxruntime-gpu.
    versions |= {"onnxruntime": import_onnxruntime().__version__, "opset": str(options.opset)}
    return Manifest(
        schema_version=SCHEMA_VERSION,
        preset=config.name,
        stream=config.stream,
        frame_size=options.frame_size,
        network_size=network_size,
        padded_size=config.preprocessing.padded_size(*network_size),
        dynamic_batch=options.dynamic_batch,
        precision="fp32",
        inputs=inputs,
        outputs=outputs,
        weights_sha256=weights_hash(published_state(model)),
        members={},
        versions={**versions, "python": platform.python_version()},
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        note=options.note,
        storage=options.store,
        precisions={graph.precision.name: graph.info for graph in reduced},
    )
