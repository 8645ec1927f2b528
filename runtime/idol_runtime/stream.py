"""The state of one stream of frames: its frame size, its frame count and its tracks."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from idol_runtime.config import StreamConfig
from idol_runtime.device_frames import DeviceFrame, on_device, refuse
from idol_runtime.errors import FrameError, StateError
from idol_runtime.frames import check_frame
from idol_runtime.preprocess import Placement, letterbox, resize
from idol_runtime.state import StreamState
from idol_runtime.tracking.association import Tracker
from idol_runtime.tracking.detection import NetworkOutput, detect
from idol_runtime.tracking.results import FrameResult

__all__ = ["Prepared", "Stream"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A frame resized for the network.

    Attributes:
        image: [h, w, 3] uint8 RGB.
        placement: position of the source frame in the image.
        seconds: time of the preparation.
    """

    image: NDArray[np.uint8]
    placement: Placement
    seconds: float = 0.0


class Stream:
    """The steps before and after the network for the frames of one video or camera.

    Attributes:
        config: preprocessing, thresholds and association.
        tracker: tracker of the stream, to be read only.
    """

    def __init__(
        self,
        config: StreamConfig,
        network_size: tuple[int, int] | None,
        *,
        fit: bool = False,
        take: Callable[[object, str], DeviceFrame] = refuse,
        weights: str = "",
    ) -> None:
        """Start a stream.

        Args:
            config: preprocessing, thresholds and association.
            network_size: (h, w) of the network's frames in pixels; None: any size.
            fit: letterbox frames of other shapes than the network's; False: refuse them.
            weights: SHA-256 of the bundle's weights; empty for a network without a bundle.
            take: takes a frame on the GPU, from the frame and its name in messages; see `DeviceBackend`.
        """
        self.config = config
        self._network_size = network_size
        self._fit = fit
        self._take = take
        self._weights = weights
        self.tracker = Tracker(config.association)
        self.reset()

    def use_live_rules(self) -> None:
        """Apply the rules for a camera or stream, `AssociationConfig.for_live`; call it before the first `track`."""
        self.config = replace(self.config, association=self.config.association.for_live())
        self.tracker = Tracker(self.config.association)

    def reset(self) -> None:
        """Start a new video: delete all tracks, and number identities and frames from 0."""
        self.tracker.reset()
        self._index = self._prepared = 0
        self._frame_size: tuple[int, int] | None = None

    def forget(self) -> None:
        """Delete all tracks and accept another frame size; go on numbering identities and frames.

        Call it after a gap or a change of the scene, so that no identity is used twice in a run.
        """
        self.tracker.forget()
        self._frame_size = None

    def snapshot(self) -> StreamState:
        """Return a copy of the tracks and counters, for `restore` and `state.save_state`."""
        return StreamState(
            weights=self._weights,
            association=self.config.association,
            index=self._index,
            frame_size=self._frame_size,
            tracker=self.tracker.snapshot(),
            saved=time.time(),
        )

    def restore(self, state: StreamState) -> None:
        """Continue from the state of a stream with the same weights and association; nothing changes on an error.

        Raises:
            StateError: the state has other weights or settings.
        """
        if state.weights != self._weights:
            raise StateError(
                f"the state belongs to a bundle with weights {state.weights[:12] or 'unknown'}, this one has "
                f"{self._weights[:12] or 'unknown'}; use that bundle, or start without the state"
            )
        for name, value in asdict(self.config.association).items():
            if (before := getattr(state.association, name)) != value:
                raise StateError(
                    f"the state was made with association.{name}={before}, and this run has {value}; repeat the "
                    "setting with --set, or start without the state"
                )
        self.tracker.restore(state.tracker)
        self._index = self._prepared = state.index
        self._frame_size = state.frame_size

    def peek(self, frame: object) -> Prepared | DeviceFrame:
        """Check and resize the next frame without changing the stream; a frame on the GPU has the network's size.

        Raises:
            FrameError: the frame has a wrong type or depth, a size that the network does not accept, or another size
                than the previous frames.
        """
        return self._place(frame, self._index)

    def prepare(self, frame: object, *, resized: bool = False) -> Prepared:
        """Check and resize the next frame; may run in another thread than `track`, and several frames before it.

        The caller may reuse the frame's memory at once.

        Args:
            frame: frame as in `Pipeline.step`, on the host.
            resized: accept another size than that of the previous frames.

        Raises:
            FrameError: the frame cannot be processed; see `peek`.
        """
        number = max(self._prepared, self._index)
        if on_device(frame):
            raise FrameError(
                f"frame {number} lies on the GPU, where it may change; pass it to step() instead"
            )
        if resized:
            self._frame_size = None
        started = time.perf_counter()
        prepared = self._resized(frame, number)
        self._frame_size = prepared.placement.frame  # after the check: a refused frame must not set the size
        self._prepared = number + 1
        image = prepared.image.copy() if np.may_share_memory(prepared.image, frame) else prepared.image
        return replace(prepared, image=image, seconds=time.perf_counter() - started)

    def track(
        self, prepared: Prepared | DeviceFrame, output: NetworkOutput, time_s: float | None = None
    ) -> FrameResult:
        """Return the tracked instances of a prepared frame; call it in the order of `prepare`.

        Args:
            prepared: prepared frame.
            output: output of the network for this frame.
            time_s: time of the frame in seconds, from any start; None: the time of the call.
        """
        if self._index >= self._prepared:  # otherwise `prepare` has set it, perhaps for a later frame
            self._frame_size = prepared.placement.frame
        detections = detect(output, self.config.association)
        ids = self.tracker.update(
            detections.scores, detections.labels, detections.boxes, detections.embeddings, time_s=time_s
        )
        result = FrameResult.from_detections(
            self._index, detections, ids, prepared.placement, self.config.class_names
        )
        self._index += 1
        return result

    def _place(self, frame: object, number: int) -> Prepared | DeviceFrame:
        if not on_device(frame):
            return self._resized(frame, number)
        taken = self._take(frame, f"frame {number}")
        self._check_size(taken.size, number)
        return taken

    def _check_size(self, size: tuple[int, int], number: int) -> None:
        if self._frame_size not in (None, size):
            raise FrameError(
                f"frame {number} is {size[0]}x{size[1]}, the previous frames are "
                f"{self._frame_size[0]}x{self._frame_size[1]}; call reset() before another video"
            )

    def _resized(self, frame: object, number: int) -> Prepared:
        image = check_frame(frame, name=f"frame {number}")
        size = (image.shape[0], image.shape[1])
        self._check_size(size, number)
        resized = self.config.preprocessing.network_size(*size)
        target = self._network_size or resized
        if resized == target:
            return Prepared(resize(image, target), Placement(frame=size, network=target, content=target))
        if not self._fit:
            raise FrameError(
                f"a frame of {size[0]}x{size[1]} is resized to {resized[0]}x{resized[1]}, this bundle's network takes "
                f"{target[0]}x{target[1]}; letterbox it with --fit (fit=True), or export with "
                f"--frame-size {size[0]}x{size[1]}"
            )
        return Prepared(*letterbox(image, target, self.config.preprocessing.mean))
