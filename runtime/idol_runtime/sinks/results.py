"""Results of a whole video: `results.json` in the YouTube-VIS / OVIS submission format."""

from pathlib import Path

from idol_runtime.files import writable_target
from idol_runtime.frames import Frame
from idol_runtime.sinks.base import Sink, SinkContext
from idol_runtime.tracking.results import FrameResult, VideoResult, write_results

__all__ = ["ResultsSink"]


class ResultsSink(Sink):
    """A results file, written on `close`; until then the sink holds compressed masks only.

    Raises:
        OutputError: the file cannot be written.
    """

    all_instances = True

    def __init__(self, target: str | Path, context: SinkContext) -> None:
        super().__init__(target, context)
        self.path: Path = writable_target(target)
        self._video: VideoResult | None = VideoResult(context.config.video)

    def write(self, frame: Frame, result: FrameResult) -> None:
        """Add one frame."""
        assert self._video is not None
        self._video.add(result)
        self.frames_written += 1

    def close(self) -> None:
        """Write the file, unless no frame was added; may be called twice.

        Raises:
            OutputError: the file cannot be written.
        """
        video, self._video = self._video, None
        if video is not None and self.frames_written:
            categories = self.context.config.categories
            write_results(self.path, video.submission(self.context.video_id, categories))
