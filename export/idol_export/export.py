"""Export of a checkpoint to a verified bundle."""

import importlib.metadata
import platform
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_deploy.config import IdolConfig
from idol_deploy.model.idol import Idol
from idol_deploy.progress import Announce, counted, silent
from idol_deploy.weights.half import with_half_weights
from idol_deploy.weights.layout import published_state, weights_hash
from idol_deploy.weights.reference import make_video
from idol_export.certify import certify_graph
from idol_export.contents import BundleContents
from idol_export.graph.adapter import ExportGraph
from idol_export.graph.operator import CORES, with_core
from idol_export.graph.tracing import describe_io, probe_to_onnx, shipped
from idol_export.graph.weights import in_half_precision, part_weights, without_shared
from idol_export.options import ExportOptions, check_options, network_size, require_same
from idol_export.precision.reduce import reduce_graph
from idol_export.verify.candidate import Candidate
from idol_export.verify.clips import size_text, video_clip
from idol_export.verify.parity import torch_stages, verify
from idol_export.verify.reference_graph import ReferenceGraph
from idol_plugins.errors import PluginError
from idol_plugins.ort import ort_library
from idol_runtime.backends.onnxruntime import import_onnxruntime
from idol_runtime.bundle.bundle import (
    GOLDEN_FRAME,
    GRAPHS,
    OUTPUT_NAMES,
    SCHEMA_VERSION,
    WEIGHTS,
    Certificates,
    GoldenFrame,
    GraphName,
    Manifest,
)
from idol_runtime.errors import BundleError
from idol_runtime.files import writable_target
from idol_runtime.preprocess import resize

__all__ = ["ExportOptions", "Exported", "add_graphs", "export"]

_COMPARING = "comparing with PyTorch"
_GOLDEN_SEED = 0
_PACKAGES = ("idol-deploy", "torch", "onnx", "onnxscript", "numpy")


@dataclass(frozen=True)
class Exported:
    """The content of the written bundle.

    Attributes:
        manifest: manifest of the bundle.
        certificates: certificates of its graphs.
        reason: reason why the graph with our operator is missing; empty if it is there or was not requested.
        uncertified: reasons why new graphs are not verified in some engines of this machine.
    """

    manifest: Manifest
    certificates: Certificates
    reason: str = ""
    uncertified: tuple[str, ...] = ()


def export(
    model: Idol,
    config: IdolConfig,
    out: str | Path,
    options: ExportOptions,
    announce: Announce = silent,
    written: Callable[[Exported], object] = lambda _: None,
) -> Exported:
    """Export a network, verify it against PyTorch, and write a bundle.

    The bundle is written with the fp32 graphs, and again after each reduced-precision graph. After an error or an
    interrupt, the file is the last complete bundle; if the fp32 graphs are not finished, there is no new file.
    Paths, sizes and sources are checked before the network is traced.

    Args:
        model: network to export.
        config: configuration of the network; its stream part goes into the bundle.
        out: path of the `.idol` file.
        options: options of the export.
        announce: called with each step and its finished frames.
        written: called after each write with the content of the file.

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
    task = _prepare(model, config, out, options, announce)
    graphs = _trace(task)
    announce(_COMPARING, 0, options.verify_frames)
    fp32 = verify(
        task.model,
        graphs.candidates,
        counted(_frames(task), announce, _COMPARING, options.verify_frames),
        task.network_size,
        config.stream,
        source=Path(options.verify_source).name if options.verify_source else "generated video",
    )
    announce("recording the golden frame")
    golden_frame = _golden_frame(task)
    names = [candidate.name for candidate in graphs.candidates]
    members = {
        WEIGHTS: graphs.weights,
        **{GRAPHS[name]: part for name, part in zip(names, graphs.parts, strict=True)},
        GOLDEN_FRAME: golden_frame.to_bytes(),
    }
    certificates = Certificates(**dict(zip(names, fp32, strict=True)), precisions={})
    contents = BundleContents(_manifest(task, graphs), certificates, members)
    contents = _write(task, contents, out, names)
    written(Exported(contents.manifest, contents.certificates, graphs.reason))
    return _add(task, out, contents, graphs, written)


def add_graphs(
    model: Idol,
    config: IdolConfig,
    path: str | Path,
    options: ExportOptions,
    announce: Announce = silent,
    written: Callable[[Exported], object] = lambda _: None,
) -> Exported:
    """Add reduced-precision graphs to a bundle; one of the same name is replaced.

    The bundle is rewritten after each graph. After an error or an interrupt, the file is the last complete bundle.

    Args:
        model: network of the bundle.
        config: its configuration.
        path: path of the `.idol` file.
        options: options of the export; all but `portable`, `verify_source`, `verify_frames` and `reduce` must be those
            of the bundle.
        announce: called with each step and its finished frames.
        written: called after each write with the content of the file.

    Raises:
        BundleError: the file is not a bundle, or was replaced meanwhile.
        ConfigError: the bundle has other weights, sizes or options.
        IdolError: as for `export`.
    """
    contents = BundleContents.read(path)
    task = _prepare(model, config, path, options, announce)
    require_same(path, contents.manifest, task.model, config, options)
    return _add(task, path, contents, _trace(task, contents.certificates.by_graph()), written)


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

    @property
    def fastest(self) -> Candidate:
        """The graph with our operator if it is there, else the portable graph."""
        return max(self.candidates, key=lambda candidate: candidate.name == "plugin")


def _prepare(
    model: Idol, config: IdolConfig, out: str | Path, options: ExportOptions, announce: Announce
) -> _Task:
    """Check everything that can be checked before the network is traced."""
    writable_target(out)
    import_onnxruntime()
    check_options(config, options)
    if options.store == "fp16":
        model = with_half_weights(model)
    return _Task(model, config, options, announce, network_size(config, options))


def _trace(task: _Task, bundled: Collection[GraphName] | None = None) -> _Graphs:
    """Trace the fp32 graphs; that with our operator can be left out.

    Args:
        task: inputs of the export.
        bundled: fp32 graphs of an existing bundle, of which only the fastest on a CPU is traced; None for a new bundle.
    """
    libraries: dict[GraphName, tuple[Path, ...]] = {"tensorrt": (), "portable": ()}
    reason = ""
    if not task.options.portable:
        try:
            libraries["plugin"] = (ort_library(),)
        except PluginError as error:
            reason = f"left out the graph with our operator, which cannot be verified here: {error}"
    if bundled is not None:
        fastest = [name for name in libraries if name in bundled][-1]
        libraries = {fastest: libraries[fastest]}
    candidates = []
    for name, core in CORES.items():
        if name not in libraries:
            continue
        task.announce(f"tracing the network at {size_text(task.network_size)}, {name} graph")
        adapter = ExportGraph(with_core(task.model, core), task.network_size)
        # Identities are verified one frame at a time, so the default batch size is one.
        probe = probe_to_onnx(adapter, dynamic_batch=task.options.dynamic_batch, opset=task.options.opset)
        candidates.append(Candidate(name, probe, _stored(shipped(probe), task), libraries[name]))
    weights, parts = part_weights([candidate.graph for candidate in candidates])
    candidates = [replace(c, graph=weights + part) for c, part in zip(candidates, parts, strict=True)]
    return _Graphs(candidates, weights, parts, reason)


def _stored(graph: bytes, task: _Task) -> bytes:
    return in_half_precision(graph) if task.options.store == "fp16" else graph


def _frames(task: _Task) -> Iterator[NDArray[np.uint8]]:
    """Return the frames [H, W, 3] for the parity check."""
    source, count = task.options.verify_source, task.options.verify_frames
    if source is not None:
        return video_clip(source, count)
    return _generated_frames(count, task.options.frame_size, seed=1)


def _generated_frames(count: int, size: tuple[int, int], seed: int) -> Iterator[NDArray[np.uint8]]:
    for image in make_video(count, *size, seed):
        yield np.ascontiguousarray(image.transpose(1, 2, 0))


def _golden_frame(task: _Task) -> GoldenFrame:
    frame = next(_generated_frames(1, task.options.frame_size, _GOLDEN_SEED))
    stages = torch_stages(task.model, resize(frame, task.network_size))
    return GoldenFrame(frame, {name: stages[name] for name in OUTPUT_NAMES})


def _add(
    task: _Task,
    out: str | Path,
    contents: BundleContents,
    graphs: _Graphs,
    written: Callable[[Exported], object],
) -> Exported:
    """Make the reduced-precision graphs, and add each to the file, which another process may have extended as well."""
    options, name = task.options.reduce, graphs.fastest.name
    reference = ReferenceGraph(
        model=task.model,
        stream=task.config.stream,
        candidate=replace(graphs.fastest, graph=contents.members[WEIGHTS] + contents.members[GRAPHS[name]]),
        frame_size=task.options.frame_size,
        network_size=task.network_size,
        golden_frame=GoldenFrame.from_bytes(contents.members[GOLDEN_FRAME]),
        video=task.options.verify_source,
        annotations=options.annotations,
        annotation_frames=options.annotation_frames,
        announce=task.announce,
    )
    exported = Exported(contents.manifest, contents.certificates, graphs.reason)
    for precision in options.precisions:
        reduced = reduce_graph(precision, reference, options, _frames(task), task.options.verify_frames)
        current = BundleContents.read(out)
        if current.members[WEIGHTS] != contents.members[WEIGHTS]:
            raise BundleError(
                f"{out} was replaced during the export; export the {precision.name} graph again"
            )
        part = without_shared(reduced.graph, current.members[WEIGHTS])
        info = msgspec.structs.replace(reduced.info, shares_weights=part != reduced.graph)
        contents = current.with_graph(precision.name, part, info, reduced.certificate)
        contents = _write(task, contents, out, [precision.name] if reduced.runnable else [])
        found = certify_graph(out, precision.name, reference, partial(_frames, task), ["openvino"])
        contents = BundleContents.read(out)
        exported = replace(
            exported,
            manifest=contents.manifest,
            certificates=contents.certificates,
            uncertified=(*exported.uncertified, *found.reasons),
        )
        written(exported)
    return exported


def _write(
    task: _Task, contents: BundleContents, out: str | Path, names: Collection[GraphName]
) -> BundleContents:
    task.announce("writing the bundle and replaying its golden frame")
    return contents.write(out, names)


def _manifest(task: _Task, graphs: _Graphs) -> Manifest:
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
    )
