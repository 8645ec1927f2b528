"""Several streams of frames through one network, each with tracks of its own.

    with Streams.open("model.idol") as streams:
        results = streams.step({"door": frame, "yard": other})
        print(results["door"].ids)

A stream joins with its first frame, and may be left out of any step. Its results are those that it would have alone:
nothing but the network's arithmetic is shared, and frames that would have a part in each other's go one after another.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np

from idol_runtime.backends import Backend, GraphChoice
from idol_runtime.config import StreamConfig
from idol_runtime.errors import ConfigError, FrameError
from idol_runtime.pipeline import open_network
from idol_runtime.stream import Prepared, Stream
from idol_runtime.tracking.detection import NetworkOutput
from idol_runtime.tracking.results import FrameResult

__all__ = ["AT_ONCE", "Streams"]

K = TypeVar("K", bound=Hashable)

# What a batch gains, it gains by then; memory grows on.
AT_ONCE = 4


class Streams:
    """A network, and what it needs to know of each stream of frames."""

    def __init__(
        self, backend: Backend, config: StreamConfig, *, fit: bool = False, at_once: int = AT_ONCE
    ) -> None:
        """Join a backend and no stream yet; `open` does this from a bundle.

        Args:
            backend: runs the network. Closed with the streams.
            config: preprocessing, thresholds and association.
            fit: letterbox frames whose shape the network was not made for, instead of refusing them.
            at_once: most frames that go through the network together, if it takes so many.

        Raises:
            ConfigError: fewer than one frame at once.
        """
        _check_at_once(at_once)
        self.backend = backend
        self.config = config
        self.fit = fit
        self.at_once = backend.batch.at_most(at_once)
        self.reason = backend.batch.why if self.at_once < at_once else ""
        self.note = ""
        self._streams: dict[Hashable, Stream] = {}

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
    ) -> "Streams":
        """Open a bundle, check it, load it, and see the golden frame answered rightly, alone and among others.

        `remark` says why fewer than `at_once` frames go together, if that is so. All else, and the errors, are those of
        `pipeline.open_network`; `fit` is as in `Pipeline.open`.
        """
        _check_at_once(at_once)
        opened = open_network(
            bundle,
            backend=backend,
            device=device,
            threads=threads,
            graph=graph,
            golden_check=golden_check,
            settings=settings,
            frames=at_once,
        )
        streams = cls(opened.backend, opened.config, fit=fit, at_once=at_once)
        streams.note = opened.note
        return streams

    def __enter__(self) -> "Streams":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the backend."""
        self.backend.close()

    def join(self, name: Hashable) -> Stream:
        """The stream of this name, at its beginning if there was none."""
        return self._streams.setdefault(name, self._new())

    def reset(self, name: Hashable) -> None:
        """Forget a stream: it has ended, or its next frame begins another video."""
        self._streams.pop(name, None)

    def step(self, frames: Mapping[K, object]) -> dict[K, FrameResult]:
        """Process the next frame of some streams, known or new.

        Args:
            frames: [H, W, 3] uint8, RGB, by the name of the stream; each stream has a size of its own.

        Raises:
            FrameError: a frame cannot be processed; names the stream, and leaves all streams where they were.
            BackendError: the inference engine failed; likewise.
        """
        streams = {name: self._streams.get(name) or self._new() for name in frames}
        results = self._track(streams, {name: _peek(name, streams[name], frames[name]) for name in frames})
        for name, stream in streams.items():
            self._streams[name] = stream
        return results

    def track(self, prepared: Mapping[K, Prepared]) -> dict[K, FrameResult]:
        """The second half of `step`, for frames that their streams, given by `join`, have prepared in that order.

        Raises:
            BackendError: the inference engine failed; leaves all streams where they were.
        """
        return self._track({name: self._streams[name] for name in prepared}, prepared)

    def _new(self) -> Stream:
        return Stream(self.config, self.backend.network_size, fit=self.fit)

    def _track(self, streams: Mapping[K, Stream], prepared: Mapping[K, Prepared]) -> dict[K, FrameResult]:
        outputs = list(self._infer([prepared[name] for name in streams]))  # all, before any stream moves on
        return {
            name: stream.track(prepared[name], output)
            for (name, stream), output in zip(streams.items(), outputs, strict=True)
        }

    def _infer(self, prepared: Sequence[Prepared]) -> Iterator[NetworkOutput]:
        """The network's answer to each frame; only neighbours of one size go together."""
        for _, alike in groupby(prepared, lambda frame: frame.image.shape):
            images = [frame.image for frame in alike]
            for start in range(0, len(images), self.at_once):
                together = images[start : start + self.at_once]
                yield from self.backend.infer(np.stack(together) if together[1:] else together[0][None])


def _check_at_once(count: int) -> None:
    if count < 1:
        raise ConfigError(f"at least one frame goes through the network at once, got {count}")


def _peek(name: Hashable, stream: Stream, frame: object) -> Prepared:
    try:
        return stream.peek(frame)
    except FrameError as error:
        raise FrameError(f"stream {name}: {error}") from error
