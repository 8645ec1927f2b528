"""Id masks: one 16-bit PNG per frame."""

import contextlib
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_runtime.errors import OutputError
from idol_runtime.files import replacing, writable_target
from idol_runtime.frames import Frame
from idol_runtime.sinks.base import Sink, SinkContext
from idol_runtime.sinks.draw import DrawableResult

__all__ = ["MaskSink"]

_MOST_IDS = 65535  # values of a 16-bit pixel except the background's


class MaskSink(Sink):
    """A folder with one 16-bit PNG per frame, `000000.png` for frame 0; a pixel is id + 1, or 0 for background.

    Where masks overlap, the one with the higher score is on top. Each PNG is renamed when it is complete.

    The folder is created if missing, but not its parent. If it contains PNG files, the masks are written into a new
    folder beside it, `masks-2` for example, because frames of two runs must not mix and a restart must not fail.

    A 16-bit pixel has 65535 values for ids: identity 65535 is written like identity 0, and so on; `note` reports it.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, target: str | Path, context: SinkContext) -> None:
        super().__init__(target, context)
        self.path: Path = Path(target)
        try:
            if self.path.exists() and not self.path.is_dir():
                raise OutputError(f"{self.path} is a file; give a folder for the masks")
            for number in count(2):
                if not any(self.path.glob("*.png")):
                    break
                self.path = Path(f"{Path(target)}-{number}")
            self._created = not self.path.exists()
            if self._created:
                writable_target(self.path)
                self.path.mkdir()
            writable_target(self.path / "000000.png")
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}; choose another folder") from error

    def write(self, frame: Frame, result: DrawableResult) -> None:
        """Write one PNG.

        Raises:
            OutputError: the disk is full.
        """
        if len(result.ids) and int(result.ids.max()) >= _MOST_IDS:
            self.note = f"{self.path}: identities are numbered modulo {_MOST_IDS} in 16-bit masks"
        id_map = _id_map(frame.size, result)
        with replacing(self.path / f"{frame.index:06d}.png") as temporary:
            Image.fromarray(id_map).save(temporary)
        self.frames_written += 1

    def close(self) -> None:
        """Remove the folder if it was created here and no frame was written."""
        if self._created and not self.frames_written:
            with contextlib.suppress(OSError):
                self.path.rmdir()


def _id_map(size: tuple[int, int], result: DrawableResult) -> NDArray[np.uint16]:
    """Return id % 65535 + 1 per pixel, [H, W]; 0 for background."""
    id_map = np.zeros(size, np.uint16)
    for i in np.argsort(result.scores, kind="stable"):
        crop = result.crops[i]
        id_map[crop.place()][crop.pixels] = result.ids[i] % _MOST_IDS + 1
    return id_map
