"""Outputs of the events of a run, shared by the commands that run sources."""

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from idol_runtime.events import Event, EventFile, Tell

__all__ = ["EventOutputs", "add_event_outputs", "open_event_outputs"]


def add_event_outputs(parser: argparse.ArgumentParser) -> None:
    """Add `--events`."""
    parser.add_argument(
        "--events",
        type=Path,
        metavar="FILE",
        help="append what happens to sources and tracks as JSON lines to FILE",
    )


class EventOutputs:
    """A function that prints events on stderr, above the progress bars, and passes them on.

    Attributes:
        track_events: True if an output takes the events of tracks; the console does not.
        single: True for a run of one source, whose error ends the command and is printed then.
    """

    def __init__(self, receivers: list[Tell], *, single: bool) -> None:
        """Prepare the console.

        Args:
            receivers: functions that receive every event.
            single: see the attribute.
        """
        self._receivers, self.single = receivers, single
        self._lock = threading.Lock()
        self.track_events = bool(receivers)

    def __call__(self, event: Event) -> None:
        """Print an event that is not of a track, and pass every event on."""
        with self._lock:
            for receive in self._receivers:
                receive(event)
            # The summaries at the end name the sources that ended well.
            hidden = event.kind == "ended" and ("error" not in event.values or self.single)
            if not hidden and not event.kind.startswith("track_"):
                self._print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {event.source}: {event.message}")

    def _print(self, line: str) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            print(line, file=sys.stderr)
        else:
            tqdm.write(line, file=sys.stderr)


@contextlib.contextmanager
def open_event_outputs(options: argparse.Namespace, *, single: bool = False) -> Iterator[EventOutputs]:
    """Open the outputs of events until exit.

    Args:
        options: parsed options of `add_event_outputs`.
        single: as for `EventOutputs`.

    Raises:
        OutputError: an output cannot be used.
    """
    receivers: list[Tell] = []
    if options.events is not None:
        receivers.append(EventFile(options.events))
    yield EventOutputs(receivers, single=single)
