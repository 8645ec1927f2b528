"""Events of a run: what happens to sources, tracks and outputs while nobody watches."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["Event", "EventKind", "Tell", "Value", "guarded", "log_event"]

EventKind: TypeAlias = Literal[
    "waiting",  # a source cannot be opened yet
    "connected",  # a source sends its first frame
    "lost",  # a source has stopped sending
    "back",  # a lost source sends again
    "resized",  # a source sends frames of another size
    "ended",  # a source is finished
    "added",  # a source was added to the run
    "removed",  # a source was taken out of the run
    "dropped",  # frames are dropped continuously, because the network or an output is slower than the source
    "tracks_reset",  # identities before this event are not continued
    "resumed",  # the state of an earlier run is continued
    "rotated",  # an output continues in a new file
    "output_stopped",  # an output cannot be written at the moment
    "output_back",  # a stopped output is written again
    "refused",  # a change of the list of streams cannot be used
    "accepted",  # a list of streams that was refused can be used
    "evicted",  # something beyond a declared limit was deleted
    "track_enter",  # an identity is visible for the first time
    "track_lost",  # an identity is unseen for a while, and may still return
    "track_back",  # a lost identity is visible again
    "track_leave",  # an identity was removed from the memory of the tracker
]

Value: TypeAlias = int | float | str | Sequence[float]


@dataclass(frozen=True)
class Event:
    """Something that happened to one source of a run.

    Attributes:
        kind: kind of event.
        source: name of the source, without passwords.
        message: one sentence for a person.
        values: figures, such as the number of dropped frames; `events.schema.json` has those of every kind.
        time: when it happened, in seconds since 1970 (UTC).
    """

    kind: EventKind
    source: str
    message: str
    values: Mapping[str, Value] = field(default_factory=dict)
    time: float = field(default_factory=time.time)


Tell: TypeAlias = Callable[[Event], None]

_log = logging.getLogger(__name__)


def log_event(event: Event) -> None:
    """Log an event; Python writes it to stderr unless the program handles it."""
    _log.warning("%s: %s", event.source, event.message)


def guarded(tell: Tell) -> Tell:
    """Return a function that calls `tell` and logs an error of it, which must not end the source of the event."""

    def tell_safely(event: Event) -> None:
        try:
            tell(event)
        except Exception:  # noqa: BLE001 - logged
            _log.exception("%s: an event was not told: %s", event.source, event.message)

    return tell_safely
