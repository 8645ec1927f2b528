"""The size that a video container states for its file, by which a file that was cut short is recognised."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["stated_size"]


def stated_size(path: Path) -> int:
    """Return the number of bytes that a container needs by its own headers; 0 if it does not state it.

    Reads the chunk header of AVI, the boxes of MP4 and MOV, and the segment header of Matroska and WebM. Recordings
    that were written to a pipe do not state their size.
    """
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        for magic, offset, size in _FORMATS:
            if head[offset : offset + len(magic)] == magic:
                return size(file)
    return 0


def _riff(file: BinaryIO) -> int:
    size = int.from_bytes(file.read(8)[4:], "little")
    # The eight bytes of the header are not counted, because some writers do. Streams have 0 or a reserved value.
    return size if size < 2**31 else 0


def _mp4(file: BinaryIO) -> int:
    length, position = os.fstat(file.fileno()).st_size, 0
    while position + 8 <= length:
        file.seek(position)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        if size < 8:  # 0: up to the end of the file
            return 0
        position += size
        if position > length and header[4:8] not in (b"mdat", b"moof", b"moov"):
            return 0  # other data after the last box, as some cameras append
    return position


def _matroska(file: BinaryIO) -> int:
    file.seek(4)
    header = _vint(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    segment = _vint(file)
    return 0 if segment is None else file.tell() + segment


def _vint(file: BinaryIO) -> int | None:
    """Read a number of variable length; None for the reserved value that stands for "unknown"."""
    first = (file.read(1) or b"\0")[0]
    if not first:
        return None
    more = 8 - first.bit_length()
    bits = 7 * (more + 1)
    value = int.from_bytes(bytes([first]) + file.read(more), "big") - (1 << bits)
    return None if value == (1 << bits) - 1 else value


_FORMATS: list[tuple[bytes, int, Callable[[BinaryIO], int]]] = [
    (b"RIFF", 0, _riff),
    (b"ftyp", 4, _mp4),
    (b"\x1a\x45\xdf\xa3", 0, _matroska),
]
