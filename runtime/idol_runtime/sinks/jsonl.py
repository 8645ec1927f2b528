"""JSON lines: one object per frame."""

from pathlib import Path

import msgspec

from idol_runtime.errors import OutputError
from idol_runtime.frames import Frame
from idol_runtime.sinks.base import FileSink, SinkContext
from idol_runtime.sinks.draw import DrawableResult, class_name
from idol_runtime.tracking.rle import encode_crops

__all__ = ["JsonlSink"]


class JsonlSink(FileSink):
    """A file with one JSON object per frame and line.

        {"frame": 0, "time_s": 0.0, "size": [H, W], "instances": [{"id": 3, "label": 0, "class": "person",
         "score": 0.87, "box_xyxy": [left, top, right, bottom], "mask": {"size": [H, W], "counts": RLE}}]}

    Boxes are in pixels with 2 decimals, scores have 6 decimals.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, target: str | Path, context: SinkContext) -> None:
        super().__init__(target, context)
        self._file = self._temporary.open("wb")

    def write(self, frame: Frame, result: DrawableResult) -> None:
        """Append one line.

        Raises:
            OutputError: the disk is full.
        """
        line = msgspec.json.encode(_record(frame, result)) + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}; free some space") from error
        self.frames_written += 1

    def _finish(self) -> None:
        self._file.close()


def _record(frame: Frame, result: DrawableResult) -> dict[str, object]:
    instances = [
        {
            "id": int(result.ids[i]),
            "label": int(result.labels[i]),
            "class": class_name(int(result.labels[i]), result.class_names),
            "score": round(float(result.scores[i]), 6),
            "box_xyxy": [round(float(value), 2) for value in result.boxes_xyxy[i]],
            "mask": rle,
        }
        for i, rle in enumerate(encode_crops(result.crops, result.size))
    ]
    time_s = round(frame.time_s, 6)
    return {"frame": frame.index, "time_s": time_s, "size": frame.size, "instances": instances}
