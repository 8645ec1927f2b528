"""The identities of a source over gaps and restarts: what happens to tracks after a gap, and the file of the state.

A state is saved at most once a second, in the thread that writes the outputs. For a file it is saved after the outputs
of its frame, so that they are whole up to the state. For a camera it is saved before them, with identities and frame
numbers in reserve, so that a process that is killed has written none that a later one uses for something else.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from idol_runtime.errors import OutputError, StateError
from idol_runtime.frames import Frame
from idol_runtime.run.options import RunOptions
from idol_runtime.sources.frame_source import FrameSource
from idol_runtime.state import Position, StateFile, StreamState, load_state
from idol_runtime.stream import Stream

__all__ = ["Continuity"]

# Time between two saved states of a source, and between two events about evicted tracks.
_SAVE_INTERVAL_S, _TELL_INTERVAL_S = 1.0, 10.0
# Identities and frame numbers that a saved state of a camera reserves. A state is saved earlier when they are used up.
_RESERVE = 1000


class Continuity:
    """The continuation of one source's tracks and numbers.

    `frames` runs in the thread that reads, `begin` and `done` run in that of the network, and `write` and `finish` in
    that of the outputs.

    Attributes:
        resumed: True if the state of an earlier run is continued.
        skipped: number of frames that the earlier run has processed and that are not read again.
        first_id: identity of the first track that this run starts.
        resumed_s: time of the last frame of the state that is continued; None without one.
    """

    def __init__(
        self,
        stream: Stream,
        source: FrameSource,
        options: RunOptions,
        tell: Callable[..., None],
    ) -> None:
        """Continue the state of an earlier run, if the file exists.

        Args:
            stream: stream of the source, without frames.
            source: open source.
            options: options of the source.
            tell: function that receives the kind, the message and the values of an event.

        Raises:
            StateError: the state is broken, or of another bundle, source or other settings.
            OutputError: another run writes the file.
        """
        self._stream, self._source, self._tell = stream, source, tell
        self._path, self._after_gap_s = options.state, options.after_gap_s
        self._position = Position(source.name, source.live, options.stride)
        self._size: tuple[int, int] | None = None
        self._written, self._reserved, self._evicted, self._failed = -1, (-1, -1), 0, False
        self._saved = self._save_at = self._tell_at = 0.0
        self.skipped = 0
        self.resumed = options.state is not None and options.state.exists()
        self._file = None if options.state is None else StateFile(options.state)
        if options.state is not None and self.resumed:
            try:
                self._resume(options.state)
            except BaseException:
                self.close()
                raise
        self.first_id = stream.tracker.next_id
        self.resumed_s = self._position.time_s if self.resumed else None

    def frames(self, source: Iterable[Frame]) -> Iterator[Frame]:
        """Yield the frames of the source; those of a continued camera get the numbers and times after the state's."""
        before, shift_s = self._position, None
        continues = self.resumed and before.live
        for frame in source:
            if not continues:
                yield frame
                continue
            if shift_s is None:  # the first frame may have been waited for
                shift_s = before.time_s + max(0.0, time.time() - self._saved) - frame.time_s
            yield replace(
                frame,
                index=frame.index + before.index + before.stride,
                time_s=frame.time_s + shift_s,
                epoch=frame.epoch + before.epoch + 1,
            )

    def begin(self, frame: Frame) -> None:
        """Forget the tracks if this frame, which is tracked next, comes after a long gap or has another size."""
        last, size, reason = self._position, self._size, ""
        if size is None and self._source.live and not self.resumed:
            self._stream.use_live_rules()
        returns = last.index >= 0 and frame.epoch != last.epoch
        gap_s = frame.time_s - last.time_s if returns else -1.0
        if gap_s >= self._after_gap_s:
            reason = f"after a gap of {gap_s:.1f} s"
        elif size not in (None, frame.size):
            reason = f"because frames have {frame.size[0]}x{frame.size[1]} pixels, not {size[0]}x{size[1]}"
        if reason:
            self._stream.forget()
            self._tell("tracks_reset", f"all instances get new identities, {reason}", gap_s=max(gap_s, 0.0))
        self._size = frame.size

    def done(self, frame: Frame) -> StreamState | None:
        """Note a frame that was tracked, and return a state to save if one is due."""
        self._position = replace(
            self._position, live=self._source.live, index=frame.index, time_s=frame.time_s, epoch=frame.epoch
        )
        now = time.monotonic()
        self._tell_evicted(now)
        if self._path is None:
            return None
        numbers = self._stream.tracker.next_id, frame.index
        used_up = self._position.live and (numbers[0] > self._reserved[0] or numbers[1] > self._reserved[1])
        if now < self._save_at and not used_up:
            return None
        self._save_at = now + _SAVE_INTERVAL_S
        return self._reserve() if self._position.live else self._snapshot()

    def write(self, frame: Frame, state: StreamState | None, output: Callable[[], None]) -> None:
        """Write the outputs of a frame by calling `output`, and save the state that `done` returned for it, if any."""
        live = state is not None and state.position is not None and state.position.live
        if state is not None and live:
            self._save(state)
        output()
        self._written = frame.index
        if state is not None and not live:
            self._save(state)

    def finish(self) -> None:
        """Save the last state, once all outputs are complete; not if frames that were tracked were not written."""
        if self._path is not None and self._written == self._position.index >= 0:
            self._save(replace(self._snapshot(), clean=True))

    def close(self) -> None:
        """Release the file of the state; may be called twice."""
        if self._file is not None:
            self._file.close()

    def _resume(self, path: Path) -> None:
        state, here = load_state(path), self._position
        position = state.position or Position("another program")
        if (position.source, position.stride) != (here.source, here.stride):
            raise StateError(
                f"{path} belongs to {position.source} with --stride {position.stride}, not to {here.source} with "
                f"--stride {here.stride}; give another --state, or remove the file to start again"
            )
        if not position.live and self._source.size not in (None, state.frame_size):
            raise StateError(
                f"{path} was made with frames of another size than those of {here.source}; give another --state, or "
                "remove the file to start again"
            )
        if position.live:
            self._stream.use_live_rules()
        try:
            # A camera may have another resolution now.
            self._stream.restore(replace(state, frame_size=None) if position.live else state)
        except StateError as error:
            raise StateError(f"{path}: {error}") from error
        self._position, self._written, self._saved = position, position.index, state.saved
        self._evicted = self._stream.tracker.evicted
        if position.live:
            self._size = state.frame_size
        else:
            self.skipped = position.index // position.stride + 1
            self._source.skip(self.skipped)
        tracks = len(self._stream.tracker.bank or ())
        self._tell(
            "resumed",
            f"continues after frame {position.index}, with {tracks} tracks in memory",
            frame=position.index,
            tracks=tracks,
            next_id=self._stream.tracker.next_id,
        )

    def _snapshot(self) -> StreamState:
        return replace(self._stream.snapshot(), position=self._position)

    def _reserve(self) -> StreamState:
        """Return a state after which identities and numbers can be used before the next state is saved."""
        state, position = self._snapshot(), self._position
        self._reserved = state.tracker.next_id + _RESERVE, position.index + _RESERVE * position.stride
        next_id, index = self._reserved
        return replace(
            state, tracker=replace(state.tracker, next_id=next_id), position=replace(position, index=index)
        )

    def _save(self, state: StreamState) -> None:
        assert self._file is not None
        try:
            self._file.save(state)
        except OutputError as error:
            if not self._failed:
                self._tell("output_stopped", str(error), output=str(self._path))
            self._failed = True
        else:
            if self._failed:
                self._tell("output_back", f"{self._path} is written again", output=str(self._path))
            self._failed = False

    def _tell_evicted(self, now: float) -> None:
        count = self._stream.tracker.evicted - self._evicted
        if count and now >= self._tell_at:
            self._tell_at, self._evicted = now + _TELL_INTERVAL_S, self._stream.tracker.evicted
            self._tell("evicted", f"{count} tracks beyond association.max_tracks were deleted", tracks=count)
