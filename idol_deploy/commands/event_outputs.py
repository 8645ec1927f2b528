"""Outputs of the events of a run, shared by the commands that run sources."""

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from idol_runtime.errors import ConfigError
from idol_runtime.events import Event, Tell

if TYPE_CHECKING:
    from idol_runtime.delivery.event_file import EventFile
    from idol_runtime.delivery.queue import Sender

__all__ = ["EventOutputs", "add_event_outputs", "has_event_outputs", "open_event_outputs"]

# Events that wait at most for the disk of the file.
_FILE_CAPACITY = 10_000


def add_event_outputs(parser: argparse.ArgumentParser) -> None:
    """Add `--events`, `--mqtt` and `--webhook`."""
    add = parser.add_argument
    events = "append what happens to sources and tracks as JSON lines to FILE, within --rotate and --retain"
    add("--events", type=Path, metavar="FILE", help=events)
    mqtt = "publish events at a broker: mqtt[s]://[USER:PASSWORD@]HOST[:PORT]/TOPIC, or @FILE with the URL in a file"
    add("--mqtt", metavar="URL", help=mqtt)
    webhook = (
        "send events with POST to http[s]://[USER:PASSWORD@]HOST[:PORT]/PATH, or @FILE with the URL in a file"
    )
    add("--webhook", metavar="URL", help=webhook)


def has_event_outputs(options: argparse.Namespace) -> bool:
    """Return True if an option of `add_event_outputs` is given."""
    return any(output is not None for output in (options.events, options.mqtt, options.webhook))


class EventOutputs:
    """A function that prints events on stderr, above the progress bars, and passes them on.

    Attributes:
        single: True for a run of one source, whose error ends the command and is printed then.
    """

    def __init__(self, receivers: list[Tell], file: "EventFile | None" = None, *, single: bool) -> None:
        """Prepare the console.

        Args:
            receivers: functions that receive every event.
            file: file of the events, for `rotate`; None for none.
            single: see the attribute.
        """
        self._file, self.single = file, single
        self._receivers = receivers
        self._lock = threading.Lock()

    @property
    def track_events(self) -> bool:
        """True if an output takes the events of tracks; the console does not."""
        return bool(self._receivers)

    def add(self, *receivers: Tell) -> None:
        """Add functions that receive every event."""
        self._receivers += receivers

    def rotate(self) -> None:
        """Continue the file in a new one from the next event on; may be called in a signal handler."""
        if self._file is not None:
            self._file.rotate()

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
def open_event_outputs(
    options: argparse.Namespace, *receivers: Tell, single: bool = False
) -> Iterator[EventOutputs]:
    """Open the outputs of events until exit.

    Args:
        options: parsed options of `add_event_outputs` and `add_source_options`.
        receivers: further functions that receive every event.
        single: as for `EventOutputs`.

    Raises:
        ConfigError: a URL, or a limit of the file, cannot be used.
        MissingDependencyError: the package of an output is not installed.
        OutputError: the file cannot be written.
    """
    from idol_runtime.delivery.event_file import EventFile
    from idol_runtime.delivery.queue import FLUSH_S, EventQueue
    from idol_runtime.sinks.policy import FilePolicy

    senders = _senders(options)  # before the first thread
    file = None
    if options.events is not None:
        file = EventFile(options.events, FilePolicy.parse(options.rotate, options.retain, options.sync))
    outputs = EventOutputs([*receivers], file, single=single)
    queues = [EventQueue(sender, outputs) for sender in senders]
    if file is not None:  # its disk may hang or be full; parts end between two events
        queues.append(EventQueue(file, outputs, capacity=_FILE_CAPACITY, batch=1))
    outputs.add(*queues)
    try:
        yield outputs
    finally:
        for queue in queues:
            queue.finish(FLUSH_S)
        for queue in queues:
            if lost := queue.join():
                print(f"warning: {queue.name}: events not delivered: {lost}", file=sys.stderr)


def _senders(options: argparse.Namespace) -> "list[Sender]":
    """Return the senders of `--mqtt` and `--webhook`."""
    senders: list[Sender] = []
    if options.mqtt is not None:
        from idol_runtime.delivery.mqtt import MqttSender

        senders.append(MqttSender(_read_url(options.mqtt)))
    if options.webhook is not None:
        from idol_runtime.delivery.webhook import WebhookSender

        senders.append(WebhookSender(_read_url(options.webhook)))
    return senders


def _read_url(text: str) -> str:
    """Return a URL, which may be in a file, so that its password is in no list of processes."""
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(
            f"cannot read a URL from {text[1:]}: {problem}; check the path and its rights"
        ) from error
