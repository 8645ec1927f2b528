"""Where one stream of frames stands: its size, its count and its tracks; the network is somebody else's."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from idol_runtime.config import StreamConfig
from idol_runtime.errors import FrameError
from idol_runtime.frames import check_frame
from idol_runtime.preprocess import Placement, letterbox, resize
from idol_runtime.tracking.association import Tracker
from idol_runtime.tracking.detection import NetworkOutput, detect
from idol_runtime.tracking.results import FrameResult

__all__ = ["Prepared", "Stream"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A frame as the network takes it.

    Attributes:
        image: [h, w, 3] uint8 RGB.
        placement: where the source frame lies in it.
    """

    image: NDArray[np.uint8]
    placement: Placement


class Stream:
    """What comes before the network, and what comes after it, of the frames of one video or camera."""

    def __init__(
        self, config: StreamConfig, network_size: tuple[int, int] | None, *, fit: bool = False
    ) -> None:
        """A stream at its beginning.

        Args:
            config: preprocessing, thresholds and association.
            network_size: (h, w) of the frames that the network takes; None: any.
            fit: letterbox frames whose shape the network was not made for, instead of refusing them.
        """
        self.config = config
        self._network_size = network_size
        self._fit = fit
        self._tracker = Tracker(config.association)
        self.reset()

    def reset(self) -> None:
        """Start a new video: forget all tracks, number identities and frames from 0 again."""
        self._tracker.reset()
        self._index = self._prepared = 0
        self._frame_size: tuple[int, int] | None = None

    def peek(self, frame: object) -> Prepared:
        """Check and resize what would be the next frame; the stream stays where it is.

        Raises:
            FrameError: the frame is of the wrong type or depth, of a size that the network was not made for,
                or of another size than the frames before.
        """
        return self._place(frame, self._index)

    def prepare(self, frame: object) -> Prepared:
        """Check and resize the next frame; may run in another thread than `track`, and ahead of it.

        The frame's memory may be used again at once.

        Raises:
            FrameError: as `peek`.
        """
        number = max(self._prepared, self._index)
        prepared = self._place(frame, number)
        self._frame_size = prepared.placement.frame  # only now: a refused frame must not decide the size
        self._prepared = number + 1
        if np.may_share_memory(prepared.image, frame):
            return replace(prepared, image=prepared.image.copy())
        return prepared

    def track(self, prepared: Prepared, output: NetworkOutput) -> FrameResult:
        """What the network's answer to a prepared frame means; frames in the order in which they were prepared."""
        self._frame_size = prepared.placement.frame
        found = detect(output, self.config.association)
        ids = self._tracker.update(found.scores, found.labels, found.boxes, found.embeddings)
        result = FrameResult.from_detections(
            self._index, found, ids, prepared.placement, self.config.class_names
        )
        self._index += 1
        return result

    def _place(self, frame: object, number: int) -> Prepared:
        image = check_frame(frame, name=f"frame {number}")
        size = (image.shape[0], image.shape[1])
        if self._frame_size not in (None, size):
            raise FrameError(
                f"frame {number} is {size[0]}x{size[1]}, those before were "
                f"{self._frame_size[0]}x{self._frame_size[1]}; call reset() before another video"
            )
        wanted = self.config.preprocessing.network_size(*size)
        taken = self._network_size or wanted
        if wanted == taken:
            return Prepared(resize(image, taken), Placement(frame=size, network=taken, content=taken))
        if not self._fit:
            raise FrameError(
                f"a frame of {size[0]}x{size[1]} becomes {wanted[0]}x{wanted[1]}, this bundle's network takes "
                f"{taken[0]}x{taken[1]}; letterbox it with --fit (fit=True), or export with "
                f"--frame-size {size[0]}x{size[1]}"
            )
        return Prepared(*letterbox(image, taken, self.config.preprocessing.mean))
