"""From a checkpoint to a verified bundle."""

import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from idol_export.graph.storage import in_half_precision
from idol_export.graph.tracing import DEFAULT_OPSET, check_opset, describe_io, probe_to_onnx, shipped
from idol_export.graph.weights import part_weights
from idol_export.precision.reduce import ReduceOptions, reduce_graph, runnable
from idol_export.verify.parity import Candidate, torch_stages, verify
from idol_export.verify.reference_graph import Exact, Judge
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
_LARGEST_SIDE = 8192  # of a frame, in pixels: a slip of the pen would fill the memory
_PACKAGES = ("idol-deploy", "torch", "onnx", "onnxscript", "numpy")


@dataclass(frozen=True)
class ExportOptions:
    """What to export for.

    Attributes:
        frame_size: (H, W) of the source, in pixels.
        portable: leave out the graph with our operator; it is also left out, and said, where the operator's
            library for ONNX Runtime is not built, since it could not be verified.
        dynamic_batch: leave the number of frames free, instead of 1.
        opset: of the ONNX operators.
        verify_source: video or images to verify on; None: a generated video.
        verify_frames: how many of its frames.
        note: caption for annotated videos, `untrained weights`, for instance.
        store: how the file holds weights; `fp16` rounds matrices and kernels in the network, before anything is
            compared, and halves the file. The graphs compute in fp32 all the same.
        reduce: graphs of fewer bits to add.
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
                f"{self.frame_size[1]}; give HEIGHTxWIDTH, 720x1280, for example"
            )
        check_opset(self.opset)
        if self.verify_frames < 1:
            raise ConfigError("an export that is verified on no frame proves nothing; verify at least 1")


@dataclass(frozen=True)
class Exported:
    """What was written, and the proof that it equals PyTorch.

    Attributes:
        manifest: of the bundle.
        certificates: one for each graph in it.
        remark: why there is no graph with our operator, if there is none and it was not asked to be left out.
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
    """Export, verify against PyTorch, and write a bundle; on any failure no file is left behind.

    Args:
        model: the network.
        config: its configuration; the bundle carries its stream part.
        out: where to write the `.idol` file.
        options: what to export for.
        announce: called with each step's name.

    Raises:
        OutputError: `out` cannot be written; told before any work, like the six that follow.
        MissingDependencyError: there is no ONNX Runtime to verify with.
        ConfigError: the network's input would be too small.
        CheckpointError: fp16 cannot hold a weight that it is to store.
        SourceError: there is nothing to verify or calibrate on.
        DataError: annotations to judge on that are broken.
        FrameError: what there is to verify, calibrate or judge on is of another shape.
        ParityError: a stage is out of tolerance.
    """
    writable_target(out)
    runtime = import_onnxruntime()
    stream = config.stream
    network_size = stream.preprocessing.network_size(*options.frame_size)
    if min(network_size) < 32:
        raise ConfigError(
            f"a network input of {network_size[0]}x{network_size[1]} is too small; its "
            "sides must be 32 or more: use a larger --short-side"
        )
    _check_sources(options, network_size, config)
    if options.store == "fp16":
        model = with_half_weights(model)
    operator: tuple[Path, ...] = ()
    reason = ""
    if not options.portable:
        try:
            operator = (ort_library(),)
        except PluginError as error:
            reason = f"left out the graph with our operator, which cannot be verified here: {error}"
    # Identities are verified one frame at a time, so the probe has a batch of one, like the default graph.
    networks = {"portable": model, **({"plugin": with_fused_attention(model)} if operator else {})}
    probes = {}
    for name, network in networks.items():
        announce(f"tracing the network at {network_size[0]}x{network_size[1]}, {name} graph")
        graph = ExportGraph(network, network_size)
        probes[name] = probe_to_onnx(graph, dynamic_batch=options.dynamic_batch, opset=options.opset)
    weights, parts = part_weights([_stored(shipped(probe), options) for probe in probes.values()])
    candidates = [
        Candidate(name, probe, weights + part, operator if name == "plugin" else ())
        for (name, probe), part in zip(probes.items(), parts, strict=True)
    ]
    certificates = verify(
        model,
        candidates,
        _frames(options, announce),
        network_size,
        stream,
        source=Path(options.verify_source).name if options.verify_source else "generated video",
    )
    certified = dict(zip(probes, certificates, strict=True))
    parity = Certificates(certified["portable"], certified.get("plugin"))
    announce("recording the golden frame")
    golden = np.ascontiguousarray(make_video(1, *options.frame_size, _GOLDEN_SEED)[0].transpose(1, 2, 0))
    answer = torch_stages(model, resize(golden, network_size))
    golden_frame = GoldenFrame(golden, {name: answer[name] for name in OUTPUT_NAMES})
    exact = Exact(model, stream, candidates[-1], options.frame_size, network_size, golden_frame)
    judge = Judge(exact, options.verify_source, options.reduce.annotations, options.reduce.annotation_frames)
    reduced = [
        reduce_graph(name, exact, judge, options.reduce, _frames(options, announce), announce)
        for name in options.reduce.names
    ]
    parity = msgspec.structs.replace(parity, precisions={graph.name: graph.certificate for graph in reduced})
    inputs, outputs = describe_io(candidates[0].graph)
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        preset=config.name,
        stream=stream,
        frame_size=options.frame_size,
        network_size=network_size,
        padded_size=stream.preprocessing.padded_size(*network_size),
        dynamic_batch=options.dynamic_batch,
        precision="fp32",
        inputs=inputs,
        outputs=outputs,
        weights_sha256=weights_hash(published_state(model)),
        members={},
        versions={
            **versions,
            "onnxruntime": runtime.__version__,
            "opset": str(options.opset),
            "python": platform.python_version(),
        },
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        note=options.note,
        storage=options.store,
        precisions={graph.name: graph.info for graph in reduced},
    )
    members = {
        WEIGHTS: weights,
        **{GRAPHS[name]: part for name, part in zip(parity.by_graph(), parts, strict=True)},
        # A bf16 graph's weights have 16 bits as they are.
        **{
            GRAPHS[graph.name]: graph.graph if graph.name == "bf16" else _stored(graph.graph, options)
            for graph in reduced
        },
        GOLDEN_FRAME: golden_frame.to_bytes(),
        CERTIFICATES: msgspec.json.encode(parity),
    }
    announce("writing the bundle and replaying its golden frame")
    with replacing(out) as temporary:
        manifest = write_bundle(temporary, manifest, members)
        for kept in (*parity.by_graph(), *runnable(reduced)):
            Pipeline.open(temporary, graph=kept).close()
    return Exported(manifest, parity, reason)


def _stored(graph: bytes, options: ExportOptions) -> bytes:
    return in_half_precision(graph) if options.store == "fp16" else graph


def _frames(options: ExportOptions, announce: Callable[[str], None]) -> Iterator[NDArray[np.uint8]]:
    """The frames to verify on."""
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


def _check_sources(options: ExportOptions, network_size: tuple[int, int], config: IdolConfig) -> None:
    """That what is to verify, calibrate and judge on is there, and of a size that the network takes."""
    sizes: list[tuple[str, str, tuple[int, int]]] = []
    for what, path in (("verify", options.verify_source), ("calibrate", options.reduce.calibrate)):
        if path is not None:
            with open_source(path) as source:
                assert source.size is not None
                sizes.append((what, source.name, source.size))
    if options.reduce.annotations is not None:
        videos = read_dataset(options.reduce.annotations).videos
        sizes += [
            ("score", f"video {video.id} of {options.reduce.annotations.name}", video.size)
            for video in videos
        ]
    for what, name, size in sizes:
        taken = config.preprocessing.network_size(*size)
        if taken != network_size:
            raise FrameError(
                f"{name} is {size[0]}x{size[1]}, which the network would see as {taken[0]}x{taken[1]} instead of "
                f"{network_size[0]}x{network_size[1]}; {what} on a source of {options.frame_size[0]}x"
                f"{options.frame_size[1]}"
            )
