"""A whole run: frames of several sources through one network into files and windows.

Per source, one thread reads frames and another one writes results; windows stay in the calling thread, as window
systems require. The network takes the frames that are ready, and waits only if there is none.

    with Streams.open("model.idol") as streams:
        with Run(streams) as run:
            run.add(RunOptions("rtsp://door/live", requested_outputs(jsonl="door.jsonl"), name="door"))
            summaries = run.wait()  # meanwhile, other threads may call add, remove and stop
"""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from idol_runtime.errors import ConfigError
from idol_runtime.events import Event, Tell, guarded, log_event
from idol_runtime.frames import Frame
from idol_runtime.run.notify import ServiceManager
from idol_runtime.run.observer import Observe
from idol_runtime.run.options import RunOptions, RunSummary, check_outputs
from idol_runtime.run.source_runner import SourceRunner
from idol_runtime.run.threads import JOIN_TIMEOUT_S
from idol_runtime.signals import STOP_SIGNALS, handling
from idol_runtime.stream import Prepared
from idol_runtime.streams import Streams

__all__ = ["MAX_SUMMARIES", "Run", "run"]

# Summaries of ended sources that are stored; the oldest one is deleted for another one.
MAX_SUMMARIES = 1000
# Longest time in which a request of a signal handler or another thread has no effect.
_POLL_S = 0.2


class Run:
    """Sources that run through one network, and are added and removed while it runs; a context manager.

    `wait` processes frames in the calling thread. The other methods may be called in any thread.

    Attributes:
        interrupted: True once the run was stopped by a signal, by `stop` or in a window.
        failed: True once a source has ended with an error.
    """

    def __init__(
        self,
        streams: Streams,
        *,
        inputs: Sequence[Path | None] = (),
        tell: Tell = log_event,
        track_events: bool = False,
        observe: Observe | None = None,
        rotate: Callable[[], None] | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        """Start a run without sources.

        Args:
            streams: network and tracks.
            inputs: files beside the sources that no output may replace; None is ignored.
            tell: function that receives the events of the run, in any thread; an error of it is logged.
            track_events: tell the events of tracks as well: several for each instance.
            observe: function that receives a report of each frame; see `Observe`.
            rotate: function that `rotate` calls as well, for other files; None: SIGHUP rotates only if an output does.
            manager: service manager that is told about the run; None if the process is no service.
        """
        self._streams, self._inputs, self._tell = streams, inputs, guarded(tell)
        self._track_events = track_events
        self._observe, self._manager = observe, manager or ServiceManager({})
        self._rotate = rotate
        self._changed = threading.Condition()
        self._adding = threading.Lock()
        self._count = self._round = self._frames = 0
        self._options: dict[int, RunOptions] = {}  # of sources that run or are being opened
        self._runners: dict[int, SourceRunner] = {}
        self._summaries: deque[tuple[int, RunSummary]] = deque(maxlen=MAX_SUMMARIES)
        self._readers: list[threading.Thread] = []  # of ended sources, as long as they are alive
        self._running = self._cut = self._closed = False
        self.interrupted = self.failed = False
        self._stepped_s = time.monotonic()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._changed:
            if self._running:  # in another thread
                self.stop()
            self._changed.wait_for(lambda: not self._running)
            self._closed = True
        self._finish(error)

    @property
    def options(self) -> list[RunOptions]:
        """Options of the sources that run or are being opened."""
        return list(self._options.values())

    @property
    def step_age_s(self) -> float:
        """Seconds since the loop of the network ran last; grows while the network hangs."""
        return time.monotonic() - self._stepped_s

    def add(self, options: RunOptions) -> None:
        """Open a source and its outputs, and take its frames from now on.

        A source of the same name or with the same output that is being removed is waited for.

        Raises:
            ConfigError: a source of this name runs, or an output is also another output or a source.
            SourceError: the source cannot be opened.
            OutputError: an output cannot be written.
        """
        name, paths = options.name, {path.absolute() for path in options.paths}

        def ends(runner: SourceRunner) -> bool:
            shared = (path for path in runner.options.paths if path.absolute() in paths)
            return runner.removed and (runner.name == name or any(shared))

        with self._changed:
            self._changed.wait_for(lambda: not any(map(ends, self._runners.values())))
        with self._adding:  # another lock, because checking an output may hang in a file system
            others = list(self._options.values())
            if name and any(other.name == name for other in others):
                raise ConfigError(f"two sources have the same name: {name}; give each its own")
            check_outputs([options], *self._inputs, running=others)
            number, self._count = self._count, self._count + 1
            self._options[number] = options
        try:
            self._streams.reset(number)
            runner = SourceRunner(
                self._streams.join(number),
                options,
                tell=self._tell,
                track_events=self._track_events,
                observe=self._observe,
                note=self._streams.note,
                changed=self._changed,
            )
        except BaseException:
            self._forget(number)
            raise
        if self._running:
            self._tell(Event("added", runner.name, "added"))
        with self._changed:
            self._runners[number] = runner
            self._changed.notify_all()
        if self._closed:  # while the source was being opened
            self._finish()

    def remove(self, name: str) -> None:
        """End the source of this name after the results that it has; the others go on.

        Raises:
            ConfigError: no source of this name runs.
        """
        with self._changed:
            runners = [runner for runner in self._runners.values() if runner.name == name]
            if not runners:
                raise ConfigError(f"no source is named {name}; add it first")
            for runner in runners:
                runner.removed = True
            self._changed.notify_all()

    def stop(self) -> None:
        """End all sources after the results that they have; may be called in a signal handler."""
        self.interrupted = True

    def rotate(self) -> None:
        """Continue all outputs in new files from their next frames on; may be called in a signal handler."""
        for runner in list(self._runners.values()):
            runner.rotate()
        if self._rotate is not None:
            self._rotate()

    def wait(self, more: Callable[[], bool] = lambda: False) -> list[RunSummary]:
        """Process all sources to their ends or to `stop`, and complete every output.

        In the main thread, the first signal of Ctrl-C, SIGTERM or SIGHUP stops the run as `stop` does. A second Ctrl-C
        or SIGTERM drops the results that are not written yet; a second SIGHUP, which a closed terminal may send, has no
        effect. Where files rotate, SIGHUP rotates them instead.

        Args:
            more: function that returns True if sources may still be added, although all have ended.

        Returns:
            The summaries of the sources in the order of `add`.

        Raises:
            BackendError: the inference engine failed; all results before have been written.
        """
        self._running = True
        self._manager.ready()
        try:
            with handling(self._on_signal, *STOP_SIGNALS):
                while self._step(more):
                    pass
        except KeyboardInterrupt as error:
            self.interrupted = self._cut = True
            self._finish(error)
        except BaseException as error:
            self._finish(error)
            raise
        finally:
            with self._changed:
                self._running = False
                self._changed.notify_all()
        self._finish()
        summaries = [summary for _, summary in sorted(self._summaries, key=lambda entry: entry[0])]
        for summary in summaries:
            summary.interrupted = self.interrupted
        return summaries

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        rotates = self._rotate or any(options.files.rotates for options in list(self._options.values()))
        hangup = signal.Signals(number).name == "SIGHUP"
        if hangup and rotates:
            self.rotate()
        elif not self.interrupted:
            self.stop()
        elif not hangup:
            raise KeyboardInterrupt

    def _step(self, more: Callable[[], bool]) -> bool:
        """Process the next frame of the sources that have one; return False at the end of the run."""
        runners, self._stepped_s = list(self._runners.items()), time.monotonic()
        self.interrupted = self.interrupted or any(runner.stopped for _, runner in runners)
        for number, runner in runners:
            if self.interrupted or runner.removed:
                runner.end()
            else:
                runner.start()
            runner.tell_drops()
            runner.end_silent()
            if runner.ended:
                self._complete(number, runner)
        if not self._runners and (self.interrupted or not more()):
            return False
        self._manager.alive(len(self._runners), self._frames)
        if frames := self._next_frames():
            times = {i: frame.time_s for i, (frame, _) in frames.items()}
            started = time.perf_counter()
            results = self._streams.track({i: prepared for i, (_, prepared) in frames.items()}, times)
            network_s = self._streams.network_s
            shared = {"network": network_s, "track": time.perf_counter() - started - network_s}
            for i, result in results.items():
                frame, prepared = frames[i]
                self._runners[i].write(frame, result, {"prepare": prepared.seconds, **shared})
            self._frames += len(results)
        return True

    def _next_frames(self) -> dict[int, tuple[Frame, Prepared]]:
        """Return one frame of each source that has one, up to the largest batch; sources take turns."""
        runners = dict(self._runners)

        def ready() -> list[int]:
            return [i for i, runner in runners.items() if runner.active and runner.ready]

        with self._changed:
            self._changed.wait_for(lambda: ready() or any(r.ended for r in runners.values()), _POLL_S)
            chosen = sorted(ready(), key=lambda i: runners[i].served)[: self._streams.at_once]
        self._round += 1
        frames = {}
        for i in chosen:
            runners[i].served = self._round
            if (frame := runners[i].next_frame()) is not None:
                frames[i] = frame
        return frames

    def _complete(self, number: int, runner: SourceRunner) -> None:
        """Complete the summary of an ended source and delete its tracks."""
        runner.complete()
        self.failed = self.failed or runner.summary.error is not None
        self._summaries.append((number, runner.summary))
        self._readers = [thread for thread in (*self._readers, *runner.readers) if thread.is_alive()]
        self._forget(number)

    def _forget(self, number: int) -> None:
        self._streams.reset(number)
        with self._changed:
            self._options.pop(number, None)
            self._runners.pop(number, None)
            self._changed.notify_all()

    def _finish(self, error: BaseException | None = None) -> None:
        """End all sources that are left, and wait for all threads."""
        self._manager.stopping()
        runners = list(self._runners.items())
        for _, runner in runners:
            runner.end(error)
            if self._cut:
                runner.cancel()
        for number, runner in runners:
            runner.join(JOIN_TIMEOUT_S if self._cut else None)
            self._complete(number, runner)
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        for thread in self._readers:
            thread.join(max(0.0, deadline - time.monotonic()))


def run(streams: Streams, options: Sequence[RunOptions], tell: Tell = log_event) -> list[RunSummary]:
    """Process sources to their ends, to `max_frames`, or to Ctrl-C, and complete every output.

    An error of one of several sources ends only that source and is returned in its summary. An error of a single
    source is raised.

    Raises:
        ConfigError: an output path is also another output or a source.
        SourceError: a source cannot be opened; or the single source cannot be read further, after the frames before
            have been written.
        FrameError: a frame of the single source cannot be processed, after the frames before have been written.
        OutputError: an output cannot be written.
        BackendError: the inference engine failed.
    """
    check_outputs(options)
    with Run(streams, tell=tell) as process:
        for entry in options:
            process.add(entry)
        summaries = process.wait()
    if len(summaries) == 1 and summaries[0].error is not None:
        raise summaries[0].error
    return summaries
