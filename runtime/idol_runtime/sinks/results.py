"""The results of a whole video as a sink: `results.json` in the YouTube-VIS / OVIS submission format."""

from pathlib import Path

from idol_runtime.config import StreamConfig
from idol_runtime.files import writable_target
from idol_runtime.frames import Frame
from idol_runtime.sinks.base import Sink
from idol_runtime.tracking.results import FrameResult, VideoResult, write_results

__all__ = ["ResultsSink"]


class ResultsSink(Sink):
    """Collects frames, holding compressed masks only, and writes the file on `close`.

    Args:
        path: the file; an existing one is replaced on `close`.
        config: categories, and how tracks become results.
        video_id: of every entry.

    Raises:
        OutputError: the place cannot be written.
    """

    def __init__(self, path: str | Path, config: StreamConfig, video_id: int = 1) -> None:
        super().__init__()
        self.path = writable_target(path)
        self._config = config
        self._video_id = video_id
        self._video: VideoResult | None = VideoResult(config.video)

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Collect one frame."""
        assert self._video is not None
        self._video.add(result)
        self.frames_written += 1

    def close(self) -> None:
        """Write the file, unless no frame was collected; safe to call twice.

        Raises:
            OutputError: it cannot be written.
        """
        video, self._video = self._video, None
        if video is None or not self.frames_written:
            return
        write_results(self.path, video.submission(self._video_id, self._config.categories))

    def abort(self) -> None:
        """Forget what was collected."""
        self._video = None
