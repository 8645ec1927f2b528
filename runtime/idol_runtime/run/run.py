"""A whole run: frames of several sources through one network into files and windows.

Per source, one thread reads and resizes frames and another one draws and writes results; windows stay in the calling
thread, as window systems require. The network waits for the next frame of a file, but not for that of a camera.
"""

import contextlib
import threading
from collections.abc import Sequence

from idol_runtime.frames import Frame
from idol_runtime.run.options import RunOptions, RunSummary, check_outputs
from idol_runtime.run.source_runner import SourceRunner
from idol_runtime.stream import Prepared
from idol_runtime.streams import Streams

__all__ = ["run"]


def run(streams: Streams, options: Sequence[RunOptions]) -> list[RunSummary]:
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
    runners: dict[int, SourceRunner] = {}
    changed = threading.Condition()
    interrupted = False
    try:
        with contextlib.ExitStack() as stack:
            for i, entry in enumerate(options):
                streams.reset(i)
                row = i if len(options) > 1 else None
                runners[i] = stack.enter_context(SourceRunner(streams.join(i), entry, streams.note, row))
            for runner in runners.values():
                runner.start(changed)
            while not interrupted and any(runner.active for runner in runners.values()):
                frames = _next_frames(runners, changed)
                times = {i: frame.time_s for i, (frame, _) in frames.items()}
                results = streams.track({i: prepared for i, (_, prepared) in frames.items()}, times)
                for i, result in results.items():
                    runners[i].write(frames[i][0], result)
                interrupted = any(runner.stopped for runner in runners.values())
    except KeyboardInterrupt:
        interrupted = True
    summaries = [runner.summary for runner in runners.values()]
    for summary in summaries:
        summary.interrupted = interrupted
    if len(summaries) == 1 and summaries[0].error is not None:
        raise summaries[0].error
    return summaries


def _next_frames(
    runners: dict[int, SourceRunner], changed: threading.Condition
) -> dict[int, tuple[Frame, Prepared]]:
    """Return the next frame of every file, and of every camera that has one; wait for at least one."""
    active = {i: runner for i, runner in runners.items() if runner.active}
    with changed:
        changed.wait_for(lambda: any(runner.ready or not runner.live for runner in active.values()))
    frames = {i: runner.next_frame() for i, runner in active.items() if not runner.live or runner.ready}
    return {i: frame for i, frame in frames.items() if frame is not None}
