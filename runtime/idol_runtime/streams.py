"""Several streams of frames through one network, each with its own tracks.

    with Streams.open("model.idol") as streams:
        results = streams.step({"door": frame, "yard": other})
        print(results["door"].ids)

A stream starts with its first frame and may be absent from any step. Its results are those of the stream alone:
only the network is shared, and frames whose outputs would depend on each other are processed one after another.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from idol_runtime.backends import GraphChoice, OpenOptions
from idol_runtime.device_frames import DeviceFrame
from idol_runtime.errors import ConfigError, FrameError
from idol_runtime.pipeline import LoadedNetwork, open_network
from idol_runtime.state import StreamState
from idol_runtime.stream import Prepared, Stream
from idol_runtime.tracking.detection import NetworkOutput
from idol_runtime.tracking.results import FrameResult

__all__ = ["AT_ONCE", "Streams"]

K = TypeVar("K", bound=Hashable)

# Larger batches need more memory and are hardly faster.
AT_ONCE = 4


@dataclass(eq=False, repr=False)
class Streams(LoadedNetwork):
    """A network with the state of several streams of frames; `Streams.open` makes one from a bundle.

    For the other arguments and attributes see `LoadedNetwork`.

    Attributes:
        at_once: largest batch in frames, as far as the backend allows; higher values need more memory.
        reason: why it is lower than requested; empty if it is not.
        network_s: seconds that the network took in the last call of `step` or `track`.

    Raises:
        ConfigError: `at_once` is lower than 1.
    """

    at_once: int = AT_ONCE

    def __post_init__(self) -> None:
        _check_at_once(self.at_once)
        requested, self.at_once = self.at_once, self.backend.batch.at_most(self.at_once)
        self.reason = self.backend.batch.why if self.at_once < requested else ""
        self._streams: dict[Hashable, Stream] = {}
        self.network_s = 0.0

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        *,
        backend: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        graph: GraphChoice = "auto",
        golden_check: bool = True,
        fit: bool = False,
        settings: Sequence[str] = (),
        at_once: int = AT_ONCE,
        stream: object = None,
        announce: Callable[[str], object] = lambda _: None,
    ) -> "Streams":
        """Open a bundle; see `open_network` for the checks and errors.

        Most arguments are those of `Pipeline.open`. `at_once` is the largest batch in frames, as far as the backend
        allows; `reason` explains a lower value. `announce` is that of `open_network`.
        """
        _check_at_once(at_once)
        options = OpenOptions(backend, device, threads, graph, stream)
        network = open_network(
            bundle,
            options,
            golden_check=golden_check,
            settings=settings,
            frames=at_once,
            announce=announce,
        )
        return cls(
            network.backend,
            network.config,
            fit=fit,
            note=network.note,
            weights=network.weights,
            at_once=at_once,
        )

    def join(self, name: Hashable) -> Stream:
        """Return the stream of this name; start it if it does not exist."""
        return self._streams.setdefault(name, self._new_stream())

    def reset(self, name: Hashable) -> None:
        """Delete a stream, because it has ended or its next frame starts another video."""
        self._streams.pop(name, None)

    def snapshot(self, name: Hashable) -> StreamState:
        """Return a copy of the tracks and counters of a stream, for `restore` and `state.save_state`."""
        return self.join(name).snapshot()

    def restore(self, name: Hashable, state: StreamState) -> None:
        """Continue a stream, existing or new, from a state; see `Pipeline.restore`.

        Raises:
            StateError: the state has other weights or association settings.
        """
        self.join(name).restore(state)

    def step(
        self, frames: Mapping[K, object], times: Mapping[K, float] | None = None
    ) -> dict[K, FrameResult]:
        """Process the next frame of some streams, existing or new. An error changes no stream.

        Args:
            frames: frame of each stream by its name, as in `Pipeline.step`; each stream has its own size.
            times: time of each frame in seconds, from any start of its stream; None: the time of the call.

        Raises:
            FrameError: a frame cannot be processed; the message names the stream.
            BackendError: the inference engine failed.
        """
        streams = {name: self._streams.get(name) or self._new_stream() for name in frames}
        peeked = {name: _peek(name, streams[name], frames[name]) for name in frames}
        results = self._track(streams, peeked, times or {})
        for name, stream in streams.items():
            self._streams[name] = stream
        return results

    def track(
        self, prepared: Mapping[K, Prepared], times: Mapping[K, float] | None = None
    ) -> dict[K, FrameResult]:
        """Run the network and the trackers on prepared frames: the second half of `step`.

        Args:
            prepared: frame of each stream by its name, from `Stream.prepare` of the stream that `join` returned.
            times: time of each frame in seconds, as in `step`.

        Raises:
            BackendError: the inference engine failed; no stream has changed.
        """
        return self._track({name: self._streams[name] for name in prepared}, prepared, times or {})

    def _track(
        self,
        streams: Mapping[K, Stream],
        prepared: Mapping[K, Prepared | DeviceFrame],
        times: Mapping[K, float],
    ) -> dict[K, FrameResult]:
        with self._exclusive():
            started = time.perf_counter()
            outputs = list(self._infer([prepared[name] for name in streams]))  # before any stream changes
            self.network_s = time.perf_counter() - started
            return {
                name: stream.track(prepared[name], output, times.get(name))
                for (name, stream), output in zip(streams.items(), outputs, strict=True)
            }

    def _infer(self, prepared: Sequence[Prepared | DeviceFrame]) -> Iterator[NetworkOutput]:
        """Yield the network's output for each frame; a batch holds consecutive frames of one size and place."""
        for _, group in groupby(prepared, lambda frame: (type(frame), frame.placement.network)):
            frames = list(group)
            for start in range(0, len(frames), self.at_once):
                yield from self._run(frames[start : start + self.at_once])


def _check_at_once(count: int) -> None:
    if count < 1:
        raise ConfigError(f"at_once must be at least 1, got {count}")


def _peek(name: Hashable, stream: Stream, frame: object) -> Prepared | DeviceFrame:
    try:
        return stream.peek(frame)
    except FrameError as error:
        raise FrameError(f"stream {name}: {error}") from error
