"""JSON lines: one object per frame."""

import io

import msgspec

from idol_runtime.frames import Frame
from idol_runtime.sinks.draw import DrawableResult, class_name
from idol_runtime.sinks.parts import FileSink
from idol_runtime.tracking.rle import encode_crops

__all__ = ["JsonlSink"]

_BLOCK = 2**16


class _Line(msgspec.Struct):
    """The part of a line that says where it belongs."""

    frame: int


class JsonlSink(FileSink):
    """A file with one JSON object per frame and line.

        {"frame": 0, "time_s": 0.0, "size": [H, W], "instances": [{"id": 3, "label": 0, "class": "person",
         "score": 0.87, "box_xyxy": [left, top, right, bottom], "mask": {"size": [H, W], "counts": RLE}}]}

    Boxes are in pixels with 2 decimals, scores have 6 decimals.

    An existing file is continued after its last whole line. A finite source that is continued also replaces the lines
    from its first frame on, which a killed run wrote after its last saved state.

    Raises:
        OutputError: the file cannot be written.
    """

    def _begin(self, frame: Frame) -> None:
        end = self._line_start(self._size)
        while end and self.context.append and not self.context.live:
            start = self._line_start(end - 1)
            self._file.seek(start)
            try:
                line = msgspec.json.decode(self._file.read(end - start), type=_Line)
            except msgspec.DecodeError:
                break
            if line.frame < frame.index:
                break
            end = start
        self._file.truncate(end)
        self._size = self._file.seek(0, io.SEEK_END)

    def _line_start(self, end: int) -> int:
        """Return the position after the last line end before `end`."""
        while end:
            start = max(end - _BLOCK, 0)
            self._file.seek(start)
            if found := self._file.read(end - start).rfind(b"\n") + 1:
                return start + found
            end = start
        return 0

    def _append(self, frame: Frame, result: DrawableResult) -> None:
        self._size += self._file.write(msgspec.json.encode(_record(frame, result)) + b"\n")


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
