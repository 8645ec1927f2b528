"""Certificates of a bundle's reduced-precision graphs for this machine's engines and processor; without PyTorch.

The reference is the bundle's fp32 graph on the same machine. Its golden outputs are PyTorch's.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from idol_deploy.progress import Announce, counted, silent
from idol_deploy.weights.reference import make_video
from idol_export.contents import BundleContents
from idol_export.verify.candidate import ID_LIMIT, STAGE_LIMITS, finite_error, golden_tolerances
from idol_export.verify.clips import check_sources, video_clip
from idol_export.verify.reference_graph import ReferenceTracks
from idol_runtime.backends import Backend, OpenOptions, open_backend
from idol_runtime.backends.opening import backend_class
from idol_runtime.bundle.bundle import GRAPHS, OUTPUT_NAMES, Bundle, GraphName
from idol_runtime.bundle.certificates import (
    Engine,
    GraphInfo,
    PrecisionCertificate,
    ReducedName,
    StageError,
)
from idol_runtime.errors import BackendError, BundleError, ConfigError, IdolError
from idol_runtime.files import writable_target
from idol_runtime.pipeline import check_golden_frame, compare_golden
from idol_runtime.preprocess import resize
from idol_runtime.processor import decisive_features, processor_features

__all__ = ["Certified", "CertifyOptions", "certify", "certify_graph"]

_MEASURED: tuple[Engine, ...] = ("onnxruntime", "openvino")

Frames = Callable[[], Iterable[NDArray[np.uint8]]]  # [H, W, 3] each


@dataclass(frozen=True)
class CertifyOptions:
    """Options of `certify`.

    Attributes:
        graphs: graphs to certify; empty: all that an engine of this machine may run faster than fp32.
        verify_source: video or images to compare outputs and tracks on; None: generated ones.
        verify_frames: number of its frames to compare outputs on.
        annotations: annotation file of a data set to score and to compare tracks on.
        annotation_frames: folder of the data set's frames.
    """

    graphs: tuple[ReducedName, ...] = ()
    verify_source: str | None = None
    verify_frames: int = 4
    annotations: Path | None = None
    annotation_frames: Path | None = None

    def __post_init__(self) -> None:
        if (self.annotations is None) != (self.annotation_frames is None):
            raise ConfigError(
                "--annotations and --frames go together; pass the annotation file and its folder of frames"
            )


@dataclass
class Certified:
    """The result of a certification.

    Attributes:
        certificates: new certificates by graph.
        reasons: reason for each graph and engine that could not be measured.
    """

    certificates: dict[ReducedName, list[PrecisionCertificate]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """True if all new certificates passed."""
        return all(c.passed for certificates in self.certificates.values() for c in certificates)


@dataclass(frozen=True)
class _BundleGraph:
    """A graph of an open bundle in an engine on the CPU; see `Runnable`."""

    bundle: Bundle
    engine: Engine
    name: GraphName

    def open_backend(self, _: tuple[int, int]) -> Backend:
        options = OpenOptions(self.engine, "cpu", graph=self.name)
        return backend_class(self.engine).from_bundle(self.bundle, self.name, options)


def certify(path: str | Path, options: CertifyOptions, announce: Announce = silent) -> Certified:
    """Measure the reduced-precision graphs of a bundle on this machine, and write a certificate after each.

    Args:
        path: path of the `.idol` file. After an interrupt, it has the certificates of the finished graphs.
        options: graphs, frames and annotations.
        announce: called with each step and its finished frames.

    Raises:
        BundleError: the file is not a bundle, or its graph was replaced meanwhile.
        ConfigError: the bundle has no such graph.
        BackendError: no engine of this machine can run an fp32 graph, or one of the graphs.
        SourceError: a source cannot be read, or shows too few instances.
        FrameError: frames or annotations have another shape than the network input.
        OutputError: the file cannot be written.
    """
    writable_target(path)
    certified = Certified()
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        if not manifest.precisions:
            fix = f"idol-deploy export --into {path} --precision int8"
            raise ConfigError(f"{path} has no reduced-precision graph; add one with: {fix}")
        for graph in options.graphs:
            if graph not in manifest.precisions:
                names = ", ".join(manifest.precisions)
                raise ConfigError(f"{path} has no reduced-precision graph {graph!r}; choose one of: {names}")
        graphs = options.graphs or tuple(manifest.precisions)
        named = bool(options.graphs)
        plans = [_engines(name, manifest.precisions[name], named=named) for name in graphs]
        if not any(engines for engines, _ in plans):
            why = "; ".join(reason for _, reasons in plans for reason in reasons)
            why = why or "no engine gains by them here; name one with --graph"
            raise BackendError(f"no graph of {path} can be certified here: {why}")
        preprocessing, size = manifest.stream.preprocessing, manifest.frame_size
        check_sources(preprocessing, size, {"verify": options.verify_source}, options.annotations)
        tracks = ReferenceTracks(
            stream=manifest.stream,
            candidate=_exact(bundle),
            frame_size=manifest.frame_size,
            network_size=manifest.network_size,
            golden_frame=bundle.golden_frame(),
            video=options.verify_source,
            annotations=options.annotations,
            annotation_frames=options.annotation_frames,
            announce=announce,
        )
        tracks.require_enough()
        for name in graphs:
            found = certify_graph(
                path, name, tracks, lambda: _frames(options, manifest.frame_size), named=named
            )
            certified.certificates |= found.certificates
            certified.reasons += found.reasons
    return certified


def certify_graph(
    path: str | Path,
    name: ReducedName,
    tracks: ReferenceTracks,
    frames: Frames,
    engines: Collection[Engine] = _MEASURED,
    *,
    named: bool = False,
) -> Certified:
    """Measure one graph of a bundle in the engines of this machine, and write the certificates into the bundle.

    Args:
        path: path of the `.idol` file.
        name: name of the graph.
        tracks: fp32 graph to compare with.
        frames: function that returns the frames to compare outputs on.
        engines: engines to measure in. An engine of TensorRT is compared with PyTorch when it is built.
        named: measure also in engines that gain nothing by the graph.
    """
    found = Certified()
    with Bundle.open(path) as bundle:
        info = bundle.manifest.precisions[name]
        able, found.reasons = _engines(name, info, engines, named=named)
        for engine in able:
            certificate = _measure(_BundleGraph(bundle, engine, name), info, tracks, frames)
            found.certificates.setdefault(name, []).append(certificate)
            contents = BundleContents.read(path)
            if contents.manifest.members[GRAPHS[name]] != bundle.manifest.members[GRAPHS[name]]:
                raise BundleError(f"the {name} graph of {path} was replaced meanwhile; certify it again")
            contents.with_certificate(name, certificate).write(path, ())
    return found


def _engines(
    name: ReducedName, info: GraphInfo, engines: Collection[Engine] = _MEASURED, *, named: bool
) -> tuple[list[Engine], list[str]]:
    """Return the engines of this machine to measure a graph in, and the reason for each that cannot run it."""
    able: list[Engine] = []
    reasons = []
    for engine in (engine for engine in info.engines if engine in engines):
        kind = backend_class(engine)
        if not (named or name in (kind.timed or {}).get("cpu", ())):
            continue
        reason = _obstacle(engine, info)
        if reason:
            reasons.append(f"the {name} graph is not verified in {kind.title}: {reason}")
        else:
            able.append(engine)
    return able, reasons


def _obstacle(engine: Engine, info: GraphInfo) -> str:
    """Return why an engine cannot compute in a graph's precision on this processor; empty if it can."""
    if info.precision == "bf16" and not decisive_features("bf16", processor_features()):
        return "this processor does not compute in bf16"
    try:
        backend_class(engine).available_devices()
    except IdolError as error:
        return str(error)
    return ""


def _exact(bundle: Bundle) -> _BundleGraph:
    """Return the fastest fp32 graph of this machine that passes the golden check."""
    golden = bundle.golden_frame()
    options = OpenOptions(device="cpu", graph="fp32")
    with closing(open_backend(bundle, options, lambda backend: check_golden_frame(backend, golden))) as fp32:
        assert fp32.graph is not None
        return _BundleGraph(bundle, fp32.engine, fp32.graph)


def _measure(
    graph: _BundleGraph, info: GraphInfo, tracks: ReferenceTracks, frames: Frames
) -> PrecisionCertificate:
    name, engine = graph.name, graph.engine
    step = f"comparing the outputs of {name} in {engine} with those of fp32"
    errors, count = dict.fromkeys(OUTPUT_NAMES, 0.0), 0
    with (
        closing(graph.open_backend(tracks.network_size)) as backend,
        closing(tracks.candidate.open_backend(tracks.network_size)) as fp32,
    ):
        golden = compare_golden(backend, tracks.golden_frame)
        for frame in counted(frames(), tracks.announce, step):
            image = resize(frame, tracks.network_size)[None]
            (ours,), (theirs,) = backend.infer(image), fp32.infer(image)
            for output in OUTPUT_NAMES:
                error = finite_error(getattr(ours, output), getattr(theirs, output))
                errors[output] = max(errors[output], error)
            count += 1
    older = graph.bundle.certificates.precisions[name]  # type: ignore[index]
    limit = STAGE_LIMITS[info.precision]
    return PrecisionCertificate(
        stages=tuple(StageError(output, error, limit) for output, error in errors.items()),
        frames=count,
        engine=engine,
        processor=decisive_features(info.precision, processor_features()),
        agreement=tracks.agreement(graph, older[0].agreement.limit if older else ID_LIMIT, to_end=True),
        golden_tolerances=golden_tolerances({stage.stage: stage.error for stage in golden}),
        annotation_scores=tracks.annotation_scores(graph),
    )


def _frames(options: CertifyOptions, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    if options.verify_source is not None:
        yield from video_clip(options.verify_source, options.verify_frames)
    else:
        for image in make_video(options.verify_frames, *size, 1):
            yield np.ascontiguousarray(image.transpose(1, 2, 0))
