"""The state of a stream as a file: its tracks and counters, from which a later process continues the identities.

The file has a line with version and SHA-256, a line of JSON, and the bytes of the arrays. Nothing in it is executed.
"""

import hashlib
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_runtime.config import AssociationConfig
from idol_runtime.errors import ConfigError, OutputError, StateError
from idol_runtime.files import lock, replacing
from idol_runtime.json_text import JSON_ERRORS
from idol_runtime.tracking.association import MemoryBank, TrackerState

__all__ = ["Position", "StateFile", "StreamState", "load_state", "save_state"]

_NAME, _VERSION = "idol-state", 1
# Sizes of a file and of its JSON, in bytes. 10,000 tracks of the published networks take 41 MB.
_MAX_FILE, _MAX_HEAD = 2**30, 2**20
_MAX_COUNT = 2**62  # counters are 64-bit and go on growing
_FIX = "remove the file to start again"


@dataclass(frozen=True)
class Position:
    """The position of a run in its source.

    Attributes:
        source: name of the source, without passwords.
        live: True for a camera or a network stream.
        stride: step between frames.
        index: number of the last frame done; -1 for none.
        time_s: time of this frame, in seconds since the first frame.
        epoch: how often the source had been opened again before this frame.
    """

    source: str
    live: bool = False
    stride: int = 1
    index: int = -1
    time_s: float = 0.0
    epoch: int = 0


@dataclass(frozen=True, eq=False)
class StreamState:
    """The state of a stream after a frame.

    Attributes:
        weights: SHA-256 of the weights of the bundle; empty for a network without a bundle.
        association: settings of the tracker.
        index: number of frames processed.
        frame_size: (height, width) of the frames in pixels; None before the first frame.
        tracker: counters and tracks.
        position: position in the source; None outside of a run.
        saved: time of the state, in seconds since 1970 (UTC).
        clean: True if the run ended after this frame and completed its outputs.
    """

    weights: str
    association: AssociationConfig
    index: int
    frame_size: tuple[int, int] | None
    tracker: TrackerState
    position: Position | None = None
    saved: float = 0.0
    clean: bool = False


def save_state(path: str | Path, state: StreamState) -> None:
    """Write a state atomically and wait until it is on the disk.

    Raises:
        OutputError: the file cannot be written.
    """
    tracks = state.tracker.tracks
    arrays = [
        np.ascontiguousarray(tracks[name], kind) for name, (kind, _) in MemoryBank.ARRAYS.items() if tracks
    ]
    shapes = {name: array.shape for name, array in zip(MemoryBank.ARRAYS, arrays, strict=False)}
    head = msgspec.json.encode(replace(state, tracker=replace(state.tracker, tracks=shapes)))
    content = b"".join((head, b"\n", *(array.tobytes() for array in arrays)))
    if len(content) > _MAX_FILE:
        raise OutputError(
            f"cannot write {path}: the state takes {len(content) / 2**20:.0f} MiB, and a file at most "
            f"{_MAX_FILE / 2**20:.0f}; lower association.max_tracks or association.memory_length"
        )
    seal = f"{_NAME} {_VERSION} {hashlib.sha256(content).hexdigest()}\n"
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines((seal.encode(), content))
        file.flush()
        os.fsync(file.fileno())


class StateFile:
    """A file of states that only one run writes: it is locked from the first state, saved or found, to `close`."""

    def __init__(self, path: Path) -> None:
        """Lock the file, if it exists.

        Raises:
            OutputError: another run writes the file.
        """
        self._path = path
        self._file: BinaryIO | None = None
        self._lock()

    def save(self, state: StreamState) -> None:
        """Write a state, as `save_state` does.

        Raises:
            OutputError: the file cannot be written, or another run writes it.
        """
        self._lock()
        save_state(self._path, state)
        self._lock()

    def close(self) -> None:
        """Release the file; may be called twice."""
        if self._file is not None:
            self._file.close()

    def _lock(self) -> None:
        """Lock the file that has the name now."""
        try:
            file = _open(self._path)
        except (OSError, ValueError):  # missing, or reported when it is read or written
            return
        try:
            if self._file is None or not os.path.sameopenfile(file.fileno(), self._file.fileno()):
                lock(file.fileno(), self._path)
                file, self._file = self._file or file, file
        finally:
            if file is not self._file:
                file.close()


def load_state(path: str | Path) -> StreamState:
    """Read a state.

    Raises:
        StateError: the file cannot be read, is broken, or is of a newer version.
    """
    seal, _, content = _read(Path(path)).partition(b"\n")
    name, version, digest = (*seal.decode("latin-1").split(" "), "", "")[:3]
    if name != _NAME or not version.isdecimal():
        raise StateError(f"{path} is no state of a stream; give the file of an earlier --state")
    if version != str(_VERSION):
        raise StateError(f"{path} has state version {version[:9]}, this idol-deploy reads {_VERSION}; {_FIX}")
    if hashlib.sha256(content).hexdigest() != digest:
        raise StateError(f"{path} is broken: its SHA-256 does not match; {_FIX}")
    head, _, rest = content.partition(b"\n")
    try:
        state = msgspec.json.decode(head[:_MAX_HEAD], type=StreamState)
        tracks = _arrays(state, rest)
        _check(state, tracks)
    except (*JSON_ERRORS, ConfigError, ValueError) as error:
        raise StateError(f"{path} is broken: {error}; {_FIX}") from error
    return replace(state, tracker=replace(state.tracker, tracks=tracks))


def _read(path: Path) -> bytes:
    try:
        with _open(path) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise StateError(f"{path} is not a regular file; give another --state")
            if status.st_size > _MAX_FILE:
                raise StateError(f"{path} is larger than {_MAX_FILE / 2**20:.0f} MiB; {_FIX}")
            return file.read(status.st_size)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise StateError(f"cannot read {path}: {reason}; give another --state") from error


def _open(path: Path) -> BinaryIO:
    # Non-blocking, because opening a pipe waits for its writer.
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def _arrays(state: StreamState, data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of the memory bank; ValueError if their shapes do not fit each other or the data."""
    if not state.tracker.tracks and not data:
        return {}
    shapes = msgspec.convert(state.tracker.tracks, dict[str, tuple[int, ...]])
    sizes = {"4": 4, "T": state.association.memory_length}
    arrays, start = {}, 0
    for name, (kind, axes) in MemoryBank.ARRAYS.items():
        shape = shapes.get(name, ())
        fits = len(shape) == len(axes) and min(shape) >= 0
        if not fits or any(
            sizes.setdefault(axis, size) != size for axis, size in zip(axes, shape, strict=True)
        ):
            raise ValueError(f"the shape of {name} is {shape}")
        end = start + math.prod(shape) * np.dtype(kind).itemsize
        if end > len(data):
            raise ValueError("its arrays are cut short")
        arrays[name] = np.frombuffer(data[start:end], kind).reshape(shape).astype(kind[1:], copy=False)
        start = end
    if start != len(data) or shapes.keys() != arrays.keys():
        raise ValueError("it has more arrays than expected")
    return arrays


def _check(state: StreamState, tracks: Mapping[str, NDArray[Any]]) -> None:
    """Raise a ValueError for values that no tracker has."""
    tracker, position = state.tracker, state.position
    counters = [state.index, tracker.frame + 1, tracker.next_id, tracker.evicted, *(state.frame_size or ())]
    if position is not None:
        counters += [position.index + 1, position.epoch, position.stride - 1]
    if not all(0 <= value < _MAX_COUNT for value in counters):
        raise ValueError("a counter is out of range")
    if not all(np.isfinite(array).all() for array in tracks.values()):
        raise ValueError("a track has values that are not finite")
    if not tracks:
        return
    ids, frames, seen = tracks["ids"], tracks["last_frame"], tracks["frames_seen"]
    valid = (ids >= 0) & (ids < tracker.next_id) & (frames >= 0) & (frames <= tracker.frame) & (seen >= 1)
    if not valid.all() or len(np.unique(ids)) != len(ids):
        raise ValueError("a track has an impossible identity or age")
