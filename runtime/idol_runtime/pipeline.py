"""Frame in, tracked instances out: the whole runtime behind one `step`.

with Pipeline.open("model.idol") as pipeline:
    for result in pipeline.stream("clip.mp4"):
        print(result.index, result.ids, result.scores)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from idol_runtime.backends import Backend, GraphChoice, open_backend
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle, GoldenFrame, StageError
from idol_runtime.config import StreamConfig, override
from idol_runtime.errors import BackendError
from idol_runtime.preprocess import resize
from idol_runtime.sources.opening import open_source
from idol_runtime.stream import Prepared, Stream
from idol_runtime.tracking.detection import NetworkOutput
from idol_runtime.tracking.results import FrameResult

__all__ = ["GOLDEN_TOLERANCE", "Opened", "Pipeline", "compare_golden", "open_network", "check_golden_frame"]

# fp32 backends agree with PyTorch to about 1e-6; a wrong GridSample or a wrong plugin is off by 1e-1 and more.
GOLDEN_TOLERANCE = 1e-3


def compare_golden(
    backend: Backend,
    golden_frame: GoldenFrame,
    tolerances: Mapping[str, float] | None = None,
    frames: int = 1,
) -> tuple[StageError, ...]:
    """Run the golden frame, from its resize to the network's six outputs, and compare with PyTorch's answer.

    Args:
        backend: runs the network.
        golden_frame: golden frame and answer.
        tolerances: of each output, of a graph of fewer bits; None: `GOLDEN_TOLERANCE` for all.
        frames: at once: the golden one in every second place, then in the others, with its mirror image between, so
            that frames that mix are found. The errors are the largest of any place.

    Raises:
        BackendError: the backend fails, or an output has another shape.
    """
    size = backend.network_size or golden_frame.frame.shape[:2]
    outputs = _answers(backend, resize(golden_frame.frame, size), frames)
    stages = []
    for name in OUTPUT_NAMES:
        expected, answers = golden_frame.outputs[name], [getattr(output, name) for output in outputs]
        for answer in answers:
            if answer.shape != expected.shape:
                raise BackendError(
                    f"{backend.name}: {name} has shape {answer.shape}, expected {expected.shape}"
                )
        norm = max(float(np.linalg.norm(expected)), 1e-12)
        error = np.max([np.linalg.norm(answer - expected) for answer in answers]) / norm  # NaN stays NaN
        allowed = GOLDEN_TOLERANCE if tolerances is None else tolerances[name]
        stages.append(StageError(name, float(error), allowed))
    return tuple(stages)


def _answers(backend: Backend, golden: NDArray[np.uint8], frames: int) -> list[NetworkOutput]:
    """To the golden frame [h, w, 3], in every place of a batch of so many."""
    if frames == 1:
        return backend.infer(golden[None])
    found: list[NetworkOutput] = []
    for first in (0, 1):
        images = np.repeat(golden[None, :, ::-1], frames, axis=0)
        images[first::2] = golden
        found += backend.infer(images)[first::2]
    return found


def check_golden_frame(
    backend: Backend,
    golden_frame: GoldenFrame,
    tolerances: Mapping[str, float] | None = None,
    frames: int = 1,
) -> None:
    """See the golden frame answered rightly; the arguments are those of `compare_golden`.

    Raises:
        BackendError: the backend answers wrongly; names the output.
    """
    among = f" among {frames} at once" if frames > 1 else ""
    for stage in compare_golden(backend, golden_frame, tolerances, frames):
        if not stage.passed:
            raise BackendError(
                f"{backend.name} answers wrongly on the golden frame{among}: {stage.stage} is off by "
                f"{stage.error:.1e} (allowed {stage.tolerance:.0e}); use another graph (--graph "
                "portable), backend (--backend onnxruntime), device or version of it"
            )


@dataclass(frozen=True)
class Opened:
    """A bundle's network, ready to run, and how its streams are to be handled.

    Attributes:
        backend: runs the network; to be closed.
        config: preprocessing, thresholds and association.
        note: the bundle's caption for annotated videos.
    """

    backend: Backend
    config: StreamConfig
    note: str


def open_network(
    bundle: str | Path,
    *,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    graph: GraphChoice = "auto",
    golden_check: bool = True,
    settings: Sequence[str] = (),
    frames: int = 1,
) -> Opened:
    """Open a bundle, check it, load it, and see the golden frame answered rightly.

    Args:
        bundle: path of the `.idol` file.
        backend: inference engine, or `auto`.
        device: `cpu`, `cuda` or `cuda:N`; `auto`: wherever the backend is fastest.
        threads: CPU threads; None: as many as the engine likes.
        graph: one of the bundle's, or `auto`: `plugin` where the library of its operator can be loaded, else
            `portable`; or a verified one of fewer bits that is faster here.
        golden_check: replay the golden frame; turn off only what you have checked otherwise.
        settings: changes to the bundle's thresholds and association; see `config.override`.
        frames: that are to go through the network at once, if it takes so many: the golden frame is then also replayed
            among others.

    Raises:
        ConfigError: a setting that cannot be.
        BundleError: broken, tampered with, or of a newer schema.
        MissingDependencyError: the engine is not installed.
        PluginError: the plugin graph was asked for, and its library is not built.
        BackendError: the engine refuses the graph or the device, or answers wrongly.
    """
    with Bundle.open(bundle) as opened:
        config = override(opened.manifest.stream, settings)
        golden = opened.golden_frame()
        engine = open_backend(opened, backend, device, threads, graph)
        try:
            if golden_check:
                tolerances = opened.tolerances(engine.graph)
                check_golden_frame(engine, golden, tolerances)
                together = 1 if frames == 1 else engine.batch.at_most(frames)
                if together > 1:
                    check_golden_frame(engine, golden, tolerances, together)
        except BaseException:
            engine.close()
            raise
        return Opened(engine, config, opened.manifest.note)


class Pipeline:
    """A network and a tracker on one stream of frames.

    Memory does not grow with the stream: the tracker holds the tracks of the last ten frames.
    """

    def __init__(self, backend: Backend, config: StreamConfig, *, fit: bool = False) -> None:
        """Join a backend and a tracker; `open` does this from a bundle.

        Args:
            backend: runs the network. Closed with the pipeline.
            config: preprocessing, thresholds and association.
            fit: letterbox frames whose shape the network was not made for, instead of refusing them.
        """
        self.backend = backend
        self.config = config
        self.fit = fit
        self.note = ""
        self._stream = Stream(config, backend.network_size, fit=fit)

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
    ) -> "Pipeline":
        """Open a bundle, check it, load it, and see the golden frame answered rightly.

        With `fit`, frames whose shape the network was not made for are letterboxed, instead of refused. All else, and
        the errors, are those of `open_network`.
        """
        opened = open_network(
            bundle,
            backend=backend,
            device=device,
            threads=threads,
            graph=graph,
            golden_check=golden_check,
            settings=settings,
        )
        pipeline = cls(opened.backend, opened.config, fit=fit)
        pipeline.note = opened.note
        return pipeline

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the backend."""
        self.backend.close()

    def reset(self) -> None:
        """Start a new video: forget all tracks, number identities and frames from 0 again."""
        self._stream.reset()

    def step(self, frame: object) -> FrameResult:
        """Process the next frame of the stream.

        Args:
            frame: [H, W, 3] uint8, RGB.

        Raises:
            FrameError: the frame is of the wrong type or depth, of a size that the network was not made for,
                or of another size than the frames before.
            BackendError: the inference engine failed.
        """
        return self.track(self._stream.peek(frame))

    def prepare(self, frame: object) -> Prepared:
        """The first half of `step`: check and resize the next frame; may run in another thread than `track`.

        Raises:
            FrameError: as `step`.
        """
        return self._stream.prepare(frame)

    def track(self, prepared: Prepared) -> FrameResult:
        """The second half of `step`, for frames in the order in which they were prepared.

        Raises:
            BackendError: the inference engine failed.
        """
        return self._stream.track(prepared, self.backend.infer(prepared.image[None])[0])

    def stream(
        self, source: str | int | Path, *, stride: int = 1, max_frames: int | None = None
    ) -> Iterator[FrameResult]:
        """Reset, then process a video file, image folder or glob, camera index or URL frame by frame.

        Raises:
            SourceError: the source cannot be read.
            FrameError: a frame cannot be processed; see `step`.
        """
        self.reset()
        with open_source(source, stride=stride, max_frames=max_frames) as frames:
            for frame in frames:
                yield self.step(frame.image)
