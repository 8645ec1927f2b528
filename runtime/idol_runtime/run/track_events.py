"""Events of the tracks of a source: instances that enter, are lost, return and leave.

An identity enters with the first frame in which it is visible, and leaves when the tracker removes it from its memory.
In between it is lost when it is unseen for half of the default life of a track: for 5 frames and, where tracks live by
time (`AssociationConfig.max_age_s`), for 1 s as well. A few missed detections are no loss, and a gap without frames is
none either.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from idol_runtime.config import AssociationConfig
from idol_runtime.events import Value
from idol_runtime.frames import Frame
from idol_runtime.preprocess import Placement
from idol_runtime.sinks.draw import class_name
from idol_runtime.stream import Stream
from idol_runtime.tracking.association import TrackerState
from idol_runtime.tracking.boxes import Ints
from idol_runtime.tracking.results import FrameResult

__all__ = ["LOST_FRAMES", "LOST_S", "TrackEvents"]

LOST_FRAMES, LOST_S = 5, 1.0


@dataclass
class _Track:
    """An identity that was visible and is still in the tracker's memory.

    Attributes:
        label: class when last seen.
        score: score of this class.
        box_xyxy: box in pixels when last seen.
        first_s: time of the first frame in which it was seen.
        last_s: time of the last one.
        last: number of the last one, counted by `TrackEvents`.
        frames: number of frames in which it was seen.
        absent_s: sum of the absences after which it was back.
        lost: True while it is lost.
    """

    label: int
    score: float
    box_xyxy: list[float]
    first_s: float
    last_s: float
    last: int
    frames: int = 0
    absent_s: float = 0.0
    lost: bool = False


class TrackEvents:
    """The events of the tracks of one source; it remembers the identities that the tracker remembers."""

    def __init__(self, stream: Stream, tell: Callable[..., None], resumed_s: float | None = None) -> None:
        """Prepare for the first frame.

        Args:
            stream: stream of the source, before its first frame.
            tell: function that receives the kind, the message and the values of an event.
            resumed_s: time of the frame after which the state of an earlier run is continued, whose tracks have
                entered; None: there is none.
        """
        self._stream, self._tell = stream, tell
        self._earlier = None if resumed_s is None else (stream.tracker.snapshot(), resumed_s)
        self._tracks: dict[int, _Track] = {}
        self._alive: frozenset[int] = frozenset()
        self._alive_from: Ints | None = None
        self._count = 0  # of frames
        self._now = -1, 0.0  # number and time of the last frame
        self._class_names = stream.config.class_names

    def update(self, frame: Frame, visible: FrameResult, alive: Ints | None) -> None:
        """Tell what the next frame changes.

        Args:
            frame: frame of the source.
            visible: instances that are written to the outputs.
            alive: identities in the tracker's memory after this frame; None: it is empty.
        """
        if self._earlier is not None:
            association = self._stream.config.association
            self._tracks = _earlier_tracks(*self._earlier, visible.placement, association)
            self._earlier = None
        self._count, self._now = self._count + 1, (frame.index, frame.time_s)
        if alive is not self._alive_from:  # the tracker replaces the array when it adds or removes tracks
            self._alive_from, self._alive = alive, frozenset(() if alive is None else alive.tolist())
        ids = visible.ids.tolist()
        self._leave(self._tracks.keys() - self._alive - set(ids))
        columns = (column.tolist() for column in (visible.labels, visible.scores, visible.boxes_xyxy))
        for number, label, score, box in zip(ids, *columns, strict=True):
            self._see(number, label, score, box)
        self._leave(set(ids) - self._alive)  # beyond `max_tracks`
        for number, track in self._tracks.items():
            unseen, unseen_s = self._count - track.last, frame.time_s - track.last_s
            if not track.lost and _is_lost(unseen, unseen_s, self._stream.config.association):
                track.lost = True
                self._event("lost", number, "is lost", absence_s=unseen_s, absence_frames=unseen)

    def close(self) -> None:
        """Let all instances leave: no frame follows."""
        self._leave(self._tracks.keys())

    def _see(self, number: int, label: int, score: float, box: list[float]) -> None:
        track, now = self._tracks.get(number), self._now[1]
        new = track is None
        if track is None:
            track = self._tracks[number] = _Track(label, score, box, now, now, self._count)
        unseen_s, unseen = now - track.last_s, self._count - track.last
        track.label, track.score, track.box_xyxy = label, score, box
        track.last_s, track.last, track.frames = now, self._count, track.frames + 1
        if new:
            self._event("enter", number, "enters")
        if track.lost:
            track.lost, track.absent_s = False, track.absent_s + unseen_s
            message = f"is back after {unseen_s:.1f} s"
            self._event("back", number, message, absence_s=unseen_s, absence_frames=unseen)

    def _leave(self, numbers: Iterable[int]) -> None:
        for number in sorted(numbers):
            track = self._tracks[number]
            presence_s = track.last_s - track.first_s - track.absent_s
            self._event(
                "leave",
                number,
                f"leaves; it was visible for {presence_s:.1f} s",
                first_time_s=track.first_s,
                last_time_s=track.last_s,
                frames_seen=track.frames,
                presence_s=presence_s,
            )
            del self._tracks[number]

    def _event(self, kind: str, number: int, message: str, **figures: float) -> None:
        track, (index, time_s) = self._tracks[number], self._now
        name = class_name(track.label, self._class_names)
        values: dict[str, Value] = {
            "id": number,
            "label": track.label,
            "class": name,
            "score": round(track.score, 6),
            "box_xyxy": [round(value, 2) for value in track.box_xyxy],
            "frame": index,
            "time_s": round(time_s, 6),
            **{key: round(value, 6) for key, value in figures.items()},
        }
        self._tell(f"track_{kind}", f"{name} {number} {message}", **values)


def _is_lost(unseen: int, unseen_s: float, association: AssociationConfig) -> bool:
    """Return True if a track is lost that is unseen for so many frames and seconds."""
    return unseen >= LOST_FRAMES and (not association.max_age_s or unseen_s >= LOST_S)


def _earlier_tracks(
    state: TrackerState, resumed_s: float, placement: Placement, association: AssociationConfig
) -> dict[int, _Track]:
    """Return the tracks of an earlier run as they were after its last frame, which had the time `resumed_s`."""
    tracks: dict[int, _Track] = {}
    bank = state.tracks
    for row, number in enumerate(bank["ids"].tolist() if bank else ()):
        unseen = state.frame - int(bank["last_frame"][row])
        unseen_s = state.time_s - float(bank["last_time"][row])
        tracks[number] = _Track(
            label=int(bank["labels"][row]),
            score=float(bank["_scores"][row, -1]),
            box_xyxy=placement.boxes_to_frame(bank["boxes"][row : row + 1])[0].tolist(),
            first_s=resumed_s - unseen_s,
            last_s=resumed_s - unseen_s,
            last=-unseen,
            frames=int(bank["frames_seen"][row]),
            lost=_is_lost(unseen, unseen_s, association),
        )
    return tracks
