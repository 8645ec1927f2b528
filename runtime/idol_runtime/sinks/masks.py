"""Id masks: one 16-bit PNG per frame."""

import re
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_runtime.errors import OutputError
from idol_runtime.files import replacing, sync, writable_target
from idol_runtime.frames import Frame
from idol_runtime.sinks.draw import DrawableResult
from idol_runtime.sinks.parts import Mode, PartSink
from idol_runtime.sinks.series import part_size

__all__ = ["MaskSink"]

_MOST_IDS = 65535  # values of a 16-bit pixel except the background's


class MaskSink(PartSink):
    """A folder with one 16-bit PNG per frame, `000000.png` for frame 0; a pixel is id + 1, or 0 for background.

    Where masks overlap, the one with the higher score is on top. Each PNG is renamed when it is complete.

    The folder is created with its first frame, but not its parent. If it contains PNG files, the masks are written into
    a new folder beside it, `masks-2` for example, because frames of two runs must not mix and a restart must not fail.
    New folders of a live source and of `--rotate` have the time in their names, as files have.

    A 16-bit pixel has 65535 values for ids: identity 65535 is written like identity 0, and so on; `note` reports it.

    Raises:
        OutputError: the folder cannot be written.
    """

    # Masks, and those that were not complete when their run was killed.
    _contents = re.compile(r"(\d{6,}|\.\d{6,}-[0-9a-f]{8})\.png")

    @classmethod
    def _check_target(cls, path: Path) -> Path:
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file; give a folder for the masks")
        writable_target(path / "000000.png" if path.exists() else path)
        return path

    def _reuse(self, path: Path) -> Mode | None:
        return "append" if self.context.append or self._parts or not any(path.glob("*.png")) else None

    def _new_path(self) -> Path:
        if self._resumes or self.context.files.rotates:
            return super()._new_path()
        names = (Path(f"{self._target}-{number}") for number in count(2))
        return next(path for path in names if not any(path.glob("*.png")))

    def _open(self, path: Path, mode: Mode, frame: Frame) -> None:
        path.mkdir(exist_ok=True)
        self._is_new, self._size = mode == "new", part_size(path)

    def _append(self, frame: Frame, result: DrawableResult) -> None:
        if len(result.ids) and int(result.ids.max()) >= _MOST_IDS:
            self._fact = f"{self.path}: identities are numbered modulo {_MOST_IDS} in 16-bit masks"
        self._written = self.path / f"{frame.index:06d}.png"
        with replacing(self._written) as temporary:
            Image.fromarray(_id_map(frame.size, result)).save(temporary)
        self._size += self._written.stat().st_size

    def _sync(self) -> None:
        sync(self._written)

    def _finish(self, torn: bool) -> None:
        if self._is_new and not self._size:
            self.path.rmdir()


def _id_map(size: tuple[int, int], result: DrawableResult) -> NDArray[np.uint16]:
    """Return id % 65535 + 1 per pixel, [H, W]; 0 for background."""
    id_map = np.zeros(size, np.uint16)
    for i in np.argsort(result.scores, kind="stable"):
        crop = result.crops[i]
        id_map[crop.place()][crop.pixels] = result.ids[i] % _MOST_IDS + 1
    return id_map
