"""The state of one stream: its latest frame and picture, its tracks and its last ten minutes."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

from idol_runtime.serve.history import SECONDS, History
from idol_runtime.serve.messages import FrameMessage, StreamInfo
from idol_runtime.sinks.draw import class_name
from idol_runtime.sinks.palette import id_colour

__all__ = ["MAX_INTERVALS", "MAX_TRACKS", "Shown", "StreamView", "Track"]

MAX_TRACKS, MAX_INTERVALS = 300, 50
# A track that is absent for less time is shown as present without a gap.
_GAP_S = 1.0


@dataclass
class Track:
    """A track of the last ten minutes.

    Attributes:
        label: class of its latest frame.
        score: score of its latest frame.
        first: time at which it was first seen, in seconds since 1970.
        last: time at which it was last seen.
        intervals: times at which it appeared and was last seen, one pair per presence.
        left: True after the tracker has removed it from its memory.
        thumbnail: JPEG picture; empty before the stream was watched.
        thumbnail_s: time of that picture, in seconds since 1970.
    """

    label: int
    score: float
    first: float
    last: float
    intervals: list[list[float]]
    left: bool = False
    thumbnail: bytes = b""
    thumbnail_s: float = 0.0


@dataclass
class Shown:
    """A drawn frame.

    Attributes:
        message: the frame, without its pixels.
        jpeg: annotated picture.
        thumbnails: JPEG pictures by track.
        made_s: time of the drawing by the monotonic clock.
        record: JSON of the frame for clients of pictures; encoded once for all of them.
        masked: JSON of the frame with its masks, once a client has asked for it.
    """

    message: FrameMessage
    jpeg: bytes
    thumbnails: dict[int, bytes]
    made_s: float = field(default_factory=time.monotonic)
    record: bytes = b""
    masked: asyncio.Future[bytes] | None = None


class StreamView:
    """The state of a stream, of bounded size.

    Attributes:
        info: name, source and connection.
        frame: latest frame; None before the first one.
        shown: latest drawn frame; None if nobody has watched.
        tracks: tracks by identity: at most `MAX_TRACKS` of the last ten minutes.
        history: figures per second.
    """

    def __init__(self, info: StreamInfo, class_names: list[str]) -> None:
        self.info, self._class_names = info, class_names
        self.frame: FrameMessage | None = None
        self.shown: Shown | None = None
        self.tracks: dict[int, Track] = {}
        self.history = History()
        self._encoded = b""

    def see(self, message: FrameMessage) -> None:
        """Add a frame."""
        before, self.frame, self._encoded = self.frame, message, b""
        wall, previous = message.wall, before.wall if before else 0.0
        if not -_GAP_S <= wall - previous <= SECONDS:  # the clock was set
            self.tracks, self.history = {}, History()
        self.history.add(message, message.dropped - before.dropped if before else message.dropped)
        for track_id, label, score in zip(message.ids, message.labels, message.scores, strict=True):
            track = self.tracks.get(track_id)
            if track is None:
                if len(self.tracks) >= MAX_TRACKS:
                    del self.tracks[min(self.tracks, key=lambda other: self.tracks[other].last)]
                track = self.tracks[track_id] = Track(label, score, wall, wall, [[wall, wall]])
            elif track.last < previous and wall - track.last > _GAP_S:
                track.intervals = [*track.intervals[1 - MAX_INTERVALS :], [wall, wall]]
            track.label, track.score, track.last, track.intervals[-1][1] = label, score, wall, wall

    def show(self, shown: Shown) -> None:
        """Replace the picture and the thumbnails."""
        shown.record = msgspec.json.encode(self.frame_json(shown.message))
        self.shown = shown
        for track_id, jpeg in shown.thumbnails.items():
            if (track := self.tracks.get(track_id)) is not None:
                track.thumbnail, track.thumbnail_s = jpeg, shown.message.wall

    def forget(self, now: float) -> None:
        """Delete tracks that were last seen more than ten minutes ago."""
        for track_id in [i for i, track in self.tracks.items() if now - track.last > SECONDS]:
            del self.tracks[track_id]

    @property
    def up(self) -> bool:
        """True if the source sends frames."""
        if self.info.live:
            return self.info.state in ("connected", "back")
        return self.frame is not None and self.info.state != "ended"

    @property
    def fps(self) -> float:
        """Frames per second over the last three seconds."""
        return round(self.history.fps(time.time()), 2)

    @property
    def encoded(self) -> bytes:
        """JSON of the latest frame; `null` before the first one."""
        if not self._encoded:
            self._encoded = msgspec.json.encode(self.frame_json(self.frame) if self.frame else None)
        return self._encoded

    def frame_json(self, message: FrameMessage) -> dict[str, Any]:
        """Return a frame as clients receive it."""
        return {
            "type": "frame",
            "stream": message.stream,
            "frame": message.index,
            "time_s": round(message.time_s, 6),
            "wall": message.wall,
            "size": message.size,
            "instances": [self._instance(message, i) for i in range(len(message.ids))],
            "stages": {stage: round(seconds, 6) for stage, seconds in message.stages.items()},
            "age_s": message.age_s and round(message.age_s, 6),
            "frames": message.frames,
            "dropped": message.dropped,
            "tracks": message.tracks,
        }

    def _instance(self, message: FrameMessage, i: int) -> dict[str, object]:
        track = self.tracks.get(message.ids[i])
        return {
            "id": message.ids[i],
            "label": message.labels[i],
            "class": class_name(message.labels[i], self._class_names),
            "colour": _colour(message.ids[i]),
            "score": round(message.scores[i], 6),
            "box_xyxy": [round(value, 2) for value in message.boxes_xyxy[i]],
            "first_seen": track.first if track else message.wall,
        }

    def tracks_json(self) -> list[dict[str, object]]:
        """Return the tracks, most recently started first."""
        latest = self.frame.wall if self.frame else 0.0
        return [
            {
                "id": track_id,
                "label": track.label,
                "class": class_name(track.label, self._class_names),
                "colour": _colour(track_id),
                "score": round(track.score, 6),
                "first_seen": track.first,
                "last_seen": track.last,
                "present": track.last == latest,
                "left": track.left,
                "intervals": track.intervals,
                "thumbnail_time": track.thumbnail_s or None,
            }
            for track_id, track in reversed(self.tracks.items())
        ]

    def stats_json(self, now: float) -> dict[str, object]:
        """Return the figures of the last seconds."""
        last = self.history.columns(now, 1)
        frame, stages = self.frame, last["stages"]
        return {
            **msgspec.to_builtins(self.info),
            "up": self.up,
            "fps": self.fps,
            "age_s": last["age_s"][0],
            "age_worst_s": last["age_worst_s"][0],
            "stages": {stage: means[0] for stage, means in stages.items()},
            "frames": frame.frames if frame else 0,
            "dropped": frame.dropped if frame else 0,
            "tracks": frame.tracks if frame else 0,
            "last_frame": frame.wall if frame else None,
            "output_stopped": bool(self.info.stopped_outputs),
        }


def _colour(track_id: int) -> str:
    """Return the colour in which a track is drawn, as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*id_colour(track_id))
