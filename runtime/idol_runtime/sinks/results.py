"""Results of a whole video: `results.json` in the YouTube-VIS / OVIS submission format."""

import tempfile
from pathlib import Path

from idol_runtime.errors import ConfigError
from idol_runtime.files import writable_target
from idol_runtime.frames import Frame
from idol_runtime.sinks.base import Sink, SinkContext
from idol_runtime.tracking.results import FrameResult, VideoResult, write_results

__all__ = ["ResultsSink"]


class ResultsSink(Sink):
    """A results file, written on `close`; until then a nameless file in the same folder holds the compressed masks.

    The format lists every frame for every result, so that the file grows with the product of frames and tracks.

    Raises:
        ConfigError: the source has no end, or the run continues an earlier one, whose masks are lost.
        OutputError: the file cannot be written.
    """

    all_instances = True

    def __init__(self, target: str | Path, context: SinkContext) -> None:
        super().__init__(target, context)
        if context.live or context.append:
            what = f"{context.name} is live" if context.live else "an earlier run is continued"
            raise ConfigError(f"--results needs one whole video, but {what}; write --jsonl instead")
        self.path: Path = writable_target(target)
        with self._output_errors():
            self._spool = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115 - closed by close()
        self._video: VideoResult | None = VideoResult(context.config.video, self._spool)

    @classmethod
    def check(cls, target: str) -> None:
        """Check that the file can be written."""
        writable_target(target)

    def _write(self, frame: Frame, result: FrameResult) -> None:
        assert self._video is not None
        self._video.add(result)

    def close(self) -> None:
        """Write the file, unless no frame was added; may be called twice.

        Raises:
            OutputError: the file cannot be written.
        """
        video, self._video = self._video, None
        with self._output_errors(), self._spool:
            if video is not None and self.frames_written:
                categories = self.context.config.categories
                write_results(self.path, video.entries(self.context.video_id, categories))
