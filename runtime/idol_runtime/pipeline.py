"""The runtime behind one `step`: a frame in, tracked instances out.

with Pipeline.open("model.idol") as pipeline:
    for result in pipeline.stream("clip.mp4"):
        print(result.index, result.ids, result.scores)
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from idol_runtime.backends import Backend, GraphChoice, OpenOptions, open_backend
from idol_runtime.backends.base import BundleBackend, DeviceBackend
from idol_runtime.backends.choice import explain
from idol_runtime.backends.opening import Candidate
from idol_runtime.backends.remembered import Choice
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle, GoldenFrame, StageError
from idol_runtime.config import StreamConfig, override_stream
from idol_runtime.device_frames import DeviceFrame, refuse
from idol_runtime.errors import BackendError
from idol_runtime.preprocess import resize
from idol_runtime.sources.live import LiveOptions
from idol_runtime.sources.opening import open_source
from idol_runtime.state import StreamState
from idol_runtime.stream import Prepared, Stream
from idol_runtime.tracking.detection import NetworkOutput
from idol_runtime.tracking.results import FrameResult

__all__ = [
    "GOLDEN_TOLERANCE",
    "LoadedNetwork",
    "Pipeline",
    "check_golden_frame",
    "compare_golden",
    "explain_choice",
    "open_network",
]

_Network = TypeVar("_Network", bound="LoadedNetwork")

# fp32 backends agree with PyTorch to about 1e-6; a wrong GridSample or a wrong plugin is off by 1e-1 or more.
GOLDEN_TOLERANCE = 1e-3


def compare_golden(
    backend: Backend,
    golden_frame: GoldenFrame,
    tolerances: Mapping[str, float] | None = None,
    frames: int = 1,
) -> tuple[StageError, ...]:
    """Run the golden frame through resize and network, and compare the six outputs with PyTorch's.

    Args:
        backend: backend to check.
        golden_frame: golden frame with PyTorch's outputs.
        tolerances: largest relative error of each output; None: `GOLDEN_TOLERANCE` for all.
        frames: batch size. In a batch, the golden frame alternates with its mirror image and takes every place once, so
            that a network which mixes frames is detected.

    Returns:
        The error of each output; in a batch, the largest over all places.

    Raises:
        BackendError: the backend fails, or an output has a wrong shape.
    """
    size = backend.network_size or golden_frame.frame.shape[:2]
    results = _golden_outputs(backend, resize(golden_frame.frame, size), frames)
    stages = []
    for name in OUTPUT_NAMES:
        expected, outputs = golden_frame.outputs[name], [getattr(result, name) for result in results]
        for output in outputs:
            if output.shape != expected.shape:
                raise BackendError(
                    f"{backend.name}: {name} has shape {output.shape}, expected {expected.shape}"
                )
        norm = max(float(np.linalg.norm(expected)), 1e-12)
        error = np.max([np.linalg.norm(output - expected) for output in outputs]) / norm  # NaN stays NaN
        stages.append(StageError(name, float(error), (tolerances or {}).get(name, GOLDEN_TOLERANCE)))
    return tuple(stages)


def _golden_outputs(backend: Backend, golden: NDArray[np.uint8], frames: int) -> list[NetworkOutput]:
    """Return the outputs for the golden frame [h, w, 3] at every place of a batch."""
    if frames == 1:
        return backend.infer(golden[None])
    outputs: list[NetworkOutput] = []
    for first in (0, 1):
        images = np.repeat(golden[None, :, ::-1], frames, axis=0)
        images[first::2] = golden
        outputs += backend.infer(images)[first::2]
    return outputs


def check_golden_frame(
    backend: Backend,
    golden_frame: GoldenFrame,
    tolerances: Mapping[str, float] | None = None,
    frames: int = 1,
) -> None:
    """Check that the backend reproduces PyTorch's outputs on the golden frame; arguments as in `compare_golden`.

    Raises:
        BackendError: an output differs by more than its tolerance; the message names the output.
    """
    batch = f" in a batch of {frames}" if frames > 1 else ""
    for stage in compare_golden(backend, golden_frame, tolerances, frames):
        if not stage.passed:
            raise BackendError(
                f"{backend.name} fails the golden check{batch}: {stage.stage} differs from PyTorch by "
                f"{stage.error:.1e} (allowed {stage.tolerance:.0e}); export a bundle of an older release again, or "
                "use another --graph, --backend or --device: idol-deploy run BUNDLE --explain lists them"
            )


@dataclass(eq=False, repr=False)
class LoadedNetwork:
    """A loaded network with its stream configuration; a context manager.

    Attributes:
        backend: inference backend; `close` closes it.
        config: preprocessing, thresholds and association.
        fit: letterbox frames of other shapes than the network's; False: refuse them.
        note: caption for annotated videos.
        weights: SHA-256 of the bundle's weights; empty for a network without a bundle.
    """

    backend: Backend
    config: StreamConfig
    _: KW_ONLY
    fit: bool = False
    note: str = ""
    weights: str = ""
    _closed: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __enter__(self: _Network) -> _Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the backend; may be called twice."""
        self._closed = True
        self.backend.close()

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Refuse work after `close`, and work of two threads at once, whose frames would get mixed tracks.

        Raises:
            BackendError: the network is closed, or another thread uses it.
        """
        if self._closed:
            raise BackendError("the network is closed; open the bundle again")
        if not self._lock.acquire(blocking=False):
            raise BackendError(
                "two threads use one Pipeline or Streams at once; give each thread its own, or step them in turn"
            )
        try:
            yield
        finally:
            self._lock.release()

    def _new_stream(self) -> Stream:
        take = getattr(self.backend, "take", refuse)  # of a `DeviceBackend`
        return Stream(self.config, self.backend.network_size, fit=self.fit, take=take, weights=self.weights)

    def _run(self, frames: Sequence[Prepared | DeviceFrame]) -> list[NetworkOutput]:
        """Run the network on a batch, which lies on the host or on the GPU."""
        images = [frame.image for frame in frames if isinstance(frame, Prepared)]
        if not images:
            return cast(DeviceBackend, self.backend).infer(cast(Sequence[DeviceFrame], frames))
        return self.backend.infer(np.stack(images) if images[1:] else images[0][None])


def open_network(
    path: str | Path,
    options: OpenOptions,
    *,
    golden_check: bool = True,
    settings: Sequence[str] = (),
    frames: int = 1,
    announce: Callable[[str], object] = lambda _: None,
) -> LoadedNetwork:
    """Validate a bundle, load its fastest graph that passes the golden check, and return it.

    Args:
        path: path of the `.idol` file.
        options: backend, device, threads and graph.
        golden_check: run the golden frame; turn it off only if the backend was checked in another way.
        settings: changes to thresholds and association; see `config.override_stream`.
        frames: largest batch that will be used; the golden check also covers it, as far as the backend allows.
        announce: function that receives the step, while candidates are timed; see `open_backend`.

    Raises:
        ConfigError: a setting is unknown or out of range.
        BundleError: the bundle is broken, modified, or of a newer schema.
        MissingDependencyError: the inference engine is not installed.
        PluginError: the plugin graph was asked for, and its library is not built.
        BackendError: the engine refuses the graph or the device, or fails the golden check.
    """
    with Bundle.open(path) as bundle:
        config = override_stream(bundle.manifest.stream, settings)
        check = _checker(bundle, frames) if golden_check else lambda _: None
        backend = open_backend(bundle, options, check, announce)
        return LoadedNetwork(
            backend, config, note=bundle.manifest.note, weights=bundle.manifest.weights_sha256
        )


def explain_choice(
    path: str | Path, options: OpenOptions, announce: Callable[[str], object] = lambda _: None
) -> tuple[list[Candidate], Choice | None]:
    """Try every candidate of a bundle; see `choice.explain`. Arguments and errors as in `open_network`."""
    with Bundle.open(path) as bundle:
        return explain(bundle, options, _checker(bundle), announce)


def _checker(bundle: Bundle, frames: int = 1) -> Callable[[BundleBackend], None]:
    """Return a function that runs the golden check, alone and in a batch of `frames`."""
    golden_frame = bundle.golden_frame()

    def check(backend: BundleBackend) -> None:
        tolerances = bundle.tolerances(backend.graph, backend.engine)
        batch = 1 if frames == 1 else backend.batch.at_most(frames)
        for size in dict.fromkeys((1, batch)):
            check_golden_frame(backend, golden_frame, tolerances, size)

    return check


@dataclass(eq=False, repr=False)
class Pipeline(LoadedNetwork):
    """A network and a tracker for one stream of frames; `Pipeline.open` makes one from a bundle.

    Memory does not grow with the stream: the tracker stores the tracks of the last ten frames, and at most
    `association.max_tracks`. For the arguments
    and attributes see `LoadedNetwork`.
    """

    def __post_init__(self) -> None:
        self._stream = self._new_stream()
        self._source: object = None  # that `stream` reads at the moment

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        *,
        backend: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        graph: GraphChoice = "auto",
        golden_check: bool = True,
        fit: bool = False,
        settings: Sequence[str] = (),
        stream: object = None,
    ) -> "Pipeline":
        """Open a bundle; see `open_network` for the checks and errors.

        Args:
            bundle: path of the `.idol` file.
            backend: `auto` or the name of a backend; see `OpenOptions` for this and the next three.
            device: `auto`, `cpu`, `cuda`, `cuda:N`, `gpu`, `gpu:N` or `npu`.
            threads: number of CPU threads; None: the engine's default.
            graph: `auto`, `fp32` or the name of a graph.
            golden_check: run the golden frame before the first step.
            fit: letterbox frames of other shapes than the network's; False: refuse them.
            settings: changes to thresholds and association, such as `association.match_score=0.4`.
            stream: CUDA stream of the application for TensorRT; see `OpenOptions`.
        """
        options = OpenOptions(backend, device, threads, graph, stream)
        network = open_network(bundle, options, golden_check=golden_check, settings=settings)
        return cls(network.backend, network.config, fit=fit, note=network.note, weights=network.weights)

    def reset(self) -> None:
        """Start a new video: delete all tracks, and number identities and frames from 0."""
        self._source = None
        self._stream.reset()

    def snapshot(self) -> StreamState:
        """Return a copy of the tracks and counters, for `restore` and `state.save_state`."""
        return self._stream.snapshot()

    def restore(self, state: StreamState) -> None:
        """Continue from a state: the next frames get the results that they would have got where it was made.

            save_state("door.state", pipeline.snapshot())
            pipeline.restore(load_state("door.state"))

        Raises:
            StateError: the state has other weights or association settings.
        """
        self._source = None
        self._stream.restore(state)

    def forget(self) -> None:
        """Delete all tracks and accept another frame size; go on numbering identities and frames."""
        self._stream.forget()

    def step(self, frame: object, time_s: float | None = None) -> FrameResult:
        """Process the next frame of the stream.

        Args:
            frame: [H, W, 3] uint8, RGB. With TensorRT also an array on the GPU of the network's size, with DLPack or
                `__cuda_array_interface__` (CuPy, PyTorch, Numba, PyCUDA); boxes are in its pixels.
            time_s: time of the frame in seconds, from any start; None: the time of the call. Only
                `association.max_age_s` uses it.

        Raises:
            FrameError: the frame has a wrong type or depth, a size that the network does not accept, or another size
                than the previous frames.
            BackendError: the inference engine failed.
        """
        return self._track(self._stream.peek(frame), time_s)

    def prepare(self, frame: object) -> Prepared:
        """Check and resize the next frame: the first half of `step`, which may run in another thread than `track`.

        Raises:
            FrameError: the frame cannot be processed; see `step`.
        """
        return self._stream.prepare(frame)

    def track(self, prepared: Prepared, time_s: float | None = None) -> FrameResult:
        """Run the network and the tracker on a prepared frame: the second half of `step`, in the order of `prepare`.

        Raises:
            BackendError: the inference engine failed.
        """
        return self._track(prepared, time_s)

    def _track(self, frame: Prepared | DeviceFrame, time_s: float | None) -> FrameResult:
        with self._exclusive():
            return self._stream.track(frame, self._run([frame])[0], time_s)

    def stream(
        self, source: str | int | Path, *, stride: int = 1, max_frames: int | None = None
    ) -> Iterator[FrameResult]:
        """Reset the pipeline, then process a source frame by frame.

        A camera or stream that is dead or gets lost is opened again without end, as with `LiveOptions()`. If it returns
        with another frame size, its tracks are deleted.

        Args:
            source: video file, image folder or glob, camera index or URL.
            stride: process every `stride`-th frame only.
            max_frames: number of frames after which to stop; None: at the end of the source.

        Raises:
            SourceError: the source cannot be read.
            FrameError: a frame cannot be processed; see `step`.
            BackendError: the pipeline was reset or got another source before the end.
        """
        self.reset()
        size = None
        with open_source(source, stride=stride, max_frames=max_frames, live=LiveOptions()) as frames:
            self._source = frames
            for frame in frames:
                if self._source is not frames:
                    raise BackendError(
                        f"{frames.name} was being streamed when this pipeline was reset or got another source; open "
                        "one Pipeline for each, or use Streams"
                    )
                if size not in (None, frame.size):
                    self.forget()
                size = frame.size
                yield self.step(frame.image, frame.time_s)
