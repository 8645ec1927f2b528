"""A whole run: sources through one network into files and windows, with a progress bar for each.

Of each source, reading and resizing run ahead of the network in a thread, drawing and writing behind it in another;
windows stay in the caller's, where windows must be. A file waits for the network and is waited for; a camera is not.
"""

import contextlib
import threading
from collections.abc import Sequence

from idol_runtime.frames import Frame
from idol_runtime.run.options import RunOptions, RunSummary, check_outputs
from idol_runtime.run.source_runner import SourceRunner
from idol_runtime.stream import Prepared
from idol_runtime.streams import Streams

__all__ = ["RunOptions", "RunSummary", "run"]


def run(streams: Streams, options: Sequence[RunOptions]) -> list[RunSummary]:
    """Process sources to their ends, to `max_frames`, or to Ctrl-C; every output is finished properly.

    A source that breaks ends alone, and its summary says why; of a single one, the error is raised.

    Raises:
        ConfigError: an output has the place of another, or of a source.
        SourceError: a source cannot be opened; or the only one cannot be read further, and what came before is written.
        FrameError: a frame of the only source cannot be processed; likewise.
        OutputError: the place of an output cannot be written.
        BackendError: the inference engine failed.
    """
    check_outputs(options)
    lanes: dict[int, SourceRunner] = {}
    changed = threading.Condition()
    interrupted = False
    try:
        with contextlib.ExitStack() as stack:
            for i, entry in enumerate(options):
                streams.reset(i)
                row = i if len(options) > 1 else None
                lanes[i] = stack.enter_context(SourceRunner(streams.join(i), entry, streams.note, row))
            for lane in lanes.values():
                lane.start(changed)
            while not interrupted and any(lane.going for lane in lanes.values()):
                taken = _take(lanes, changed)
                results = streams.track({i: prepared for i, (_, prepared) in taken.items()})
                for i, result in results.items():
                    lanes[i].give(taken[i][0], result)
                interrupted = any(lane.stopped for lane in lanes.values())
    except KeyboardInterrupt:
        interrupted = True
    summaries = [lane.summary for lane in lanes.values()]
    for summary in summaries:
        summary.interrupted = interrupted
    if len(summaries) == 1 and summaries[0].error is not None:
        raise summaries[0].error
    return summaries


def _take(lanes: dict[int, SourceRunner], changed: threading.Condition) -> dict[int, tuple[Frame, Prepared]]:
    """The next frame of every file, and of every camera that has one; waits for a first."""
    going = {i: lane for i, lane in lanes.items() if lane.going}
    with changed:
        changed.wait_for(lambda: any(lane.ready or not lane.live for lane in going.values()))
    found = {i: lane.take() for i, lane in going.items() if not lane.live or lane.ready}
    return {i: taken for i, taken in found.items() if taken is not None}
