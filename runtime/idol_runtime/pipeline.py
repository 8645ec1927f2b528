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

from idol_runtime.association import Tracker
from idol_runtime.backends import Backend, GraphChoice, open_backend
from idol_runtime.bundle import OUTPUT_NAMES, Bundle, Canary, StageError
from idol_runtime.config import StreamConfig, override
from idol_runtime.detection import detect
from idol_runtime.errors import BackendError, FrameError
from idol_runtime.frames import check_frame
from idol_runtime.preprocess import Placement, letterbox, resize
from idol_runtime.results import FrameResult
from idol_runtime.sources import open_source

__all__ = ["CANARY_TOLERANCE", "Pipeline", "Prepared", "compare_golden", "replay_canary"]

# fp32 backends agree with PyTorch to about 1e-6; a wrong GridSample or a wrong plugin is off by 1e-1 and more.
CANARY_TOLERANCE = 1e-3


def compare_golden(
    backend: Backend, canary: Canary, tolerances: Mapping[str, float] | None = None, copies: int = 1
) -> tuple[StageError, ...]:
    """Run the golden frame, from its resize to the network's six outputs, and compare with PyTorch's answer.

    Args:
        backend: runs the network.
        canary: golden frame and answer.
        tolerances: of each output, of a graph of fewer bits; None: `CANARY_TOLERANCE` for all.
        copies: of the frame at once; the errors are the largest of any copy.

    Raises:
        BackendError: the backend fails, or an output has another shape.
    """
    size = backend.network_size or canary.frame.shape[:2]
    outputs = backend.infer(np.repeat(resize(canary.frame, size)[None], copies, axis=0))
    stages = []
    for name in OUTPUT_NAMES:
        expected, answers = canary.outputs[name], [getattr(output, name) for output in outputs]
        for answer in answers:
            if answer.shape != expected.shape:
                raise BackendError(
                    f"{backend.name}: {name} has shape {answer.shape}, expected {expected.shape}"
                )
        norm = max(float(np.linalg.norm(expected)), 1e-12)
        error = np.max([np.linalg.norm(answer - expected) for answer in answers]) / norm  # NaN stays NaN
        allowed = CANARY_TOLERANCE if tolerances is None else tolerances[name]
        stages.append(StageError(name, float(error), allowed))
    return tuple(stages)


def replay_canary(backend: Backend, canary: Canary, tolerances: Mapping[str, float] | None = None) -> None:
    """See the golden frame answered rightly; the arguments are those of `compare_golden`.

    Raises:
        BackendError: the backend answers wrongly; names the output.
    """
    for stage in compare_golden(backend, canary, tolerances):
        if not stage.passed:
            raise BackendError(
                f"{backend.name} answers wrongly on the golden frame: {stage.stage} is off by {stage.error:.1e} "
                f"(allowed {stage.tolerance:.0e}); use another graph (--graph portable), backend (--backend "
                "onnxruntime), device or version of it"
            )


@dataclass(frozen=True, eq=False)
class Prepared:
    """A frame as the network takes it.

    Attributes:
        image: [h, w, 3] uint8 RGB.
        placement: where the source frame lies in it.
    """

    image: NDArray[np.uint8]
    placement: Placement


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
        self._tracker = Tracker(config.association)
        self._index = 0
        self._prepared = 0
        self._frame_size: tuple[int, int] | None = None

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        *,
        backend: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        graph: GraphChoice = "auto",
        canary: bool = True,
        fit: bool = False,
        settings: Sequence[str] = (),
    ) -> "Pipeline":
        """Open a bundle, check it, load it, and see the golden frame answered rightly.

        Args:
            bundle: path of the `.idol` file.
            backend: inference engine, or `auto`.
            device: `cpu`, `cuda` or `cuda:N`; `auto`: wherever the backend is fastest.
            threads: CPU threads; None: as many as the engine likes.
            graph: one of the bundle's, or `auto`: `plugin` where the library of its operator can be loaded, else
                `portable`; or a verified one of fewer bits that is faster here.
            canary: replay the golden frame; turn off only what you have checked otherwise.
            fit: letterbox frames whose shape the network was not made for, instead of refusing them.
            settings: changes to the bundle's thresholds and association; see `config.override`.

        Raises:
            ConfigError: a setting that cannot be.
            BundleError: broken, tampered with, or of a newer schema.
            MissingDependencyError: the engine is not installed.
            PluginError: the plugin graph was asked for, and its library is not built.
            BackendError: the engine refuses the graph or the device, or answers wrongly.
        """
        with Bundle.open(bundle) as opened:
            config = override(opened.manifest.stream, settings)
            golden = opened.canary()
            engine = open_backend(opened, backend, device, threads, graph)
            try:
                if canary:
                    replay_canary(engine, golden, opened.tolerances(engine.graph))
            except BaseException:
                engine.close()
                raise
            pipeline = cls(engine, config, fit=fit)
            pipeline.note = opened.manifest.note
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
        self._tracker.reset()
        self._index = self._prepared = 0
        self._frame_size = None

    def step(self, frame: object) -> FrameResult:
        """Process the next frame of the stream.

        Args:
            frame: [H, W, 3] uint8, RGB.

        Raises:
            FrameError: the frame is of the wrong type or depth, of a size that the network was not made for,
                or of another size than the frames before.
            BackendError: the inference engine failed.
        """
        self._prepared = self._index
        return self.track(self.prepare(frame))

    def prepare(self, frame: object) -> Prepared:
        """The first half of `step`: check and resize the next frame; may run in another thread than `track`.

        Raises:
            FrameError: as `step`.
        """
        image, placement = self._place(frame)
        self._frame_size = placement.frame  # only now: a refused frame must not decide the stream's size
        self._prepared += 1
        return Prepared(image, placement)

    def track(self, prepared: Prepared) -> FrameResult:
        """The second half of `step`, for frames in the order in which they were prepared.

        Raises:
            BackendError: the inference engine failed.
        """
        detections = detect(self.backend.infer(prepared.image[None])[0], self.config.association)
        ids = self._tracker.update(
            detections.scores, detections.labels, detections.boxes, detections.embeddings
        )
        names = self.config.class_names
        result = FrameResult.from_detections(self._index, detections, ids, prepared.placement, names)
        self._index += 1
        return result

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

    def _place(self, frame: object) -> tuple[NDArray[np.uint8], Placement]:
        image = check_frame(frame, name=f"frame {self._prepared}")
        size = (image.shape[0], image.shape[1])
        if self._frame_size not in (None, size):
            raise FrameError(
                f"frame {self._prepared} is {size[0]}x{size[1]}, those before were "
                f"{self._frame_size[0]}x{self._frame_size[1]}; call reset() before another video"
            )
        wanted = self.config.preprocessing.network_size(*size)
        taken = self.backend.network_size or wanted
        if wanted == taken:
            return resize(image, taken), Placement(frame=size, network=taken, content=taken)
        if not self.fit:
            raise FrameError(
                f"a frame of {size[0]}x{size[1]} becomes {wanted[0]}x{wanted[1]}, this bundle's network takes "
                f"{taken[0]}x{taken[1]}; letterbox it with --fit (fit=True), or export with "
                f"--frame-size {size[0]}x{size[1]}"
            )
        return letterbox(image, taken, self.config.preprocessing.mean)
