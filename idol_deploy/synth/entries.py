"""A video as it is annotated: drawn, compressed and written; what `JPEGImages` and the JSON file hold of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.annotations import MaskEntry, mask_entry, track_fields, write_image
from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.events import find_vanishings
from idol_deploy.synth.identities import Library, Split
from idol_deploy.synth.render import Frame
from idol_deploy.synth.video import ATTEMPTS, Draft, allowed, draft_video, least_seen
from idol_runtime.errors import ConfigError

__all__ = ["Task", "VideoEntries", "write_video"]

_QUALITY = 92


@dataclass(frozen=True)
class Task:
    """What all videos of a data set share.

    Attributes:
        config: what they are like.
        library: who may appear.
        split: whose identities.
        seed: of the data set.
        root: the folder of frames.
    """

    config: SynthConfig
    library: Library
    split: Split
    seed: int
    root: Path


@dataclass(frozen=True)
class VideoEntries:
    """What the annotation file says of a video.

    Attributes:
        video: its entry.
        annotations: of its instances.
    """

    video: dict[str, Any]
    annotations: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What is kept of a video's frames: [n][T] masks, [n, T] shares hidden, and who is within the frame."""

    masks: list[list[MaskEntry | None]]
    hidden: NDArray[np.float64]
    inside: NDArray[np.bool_]

    @property
    def seen(self) -> NDArray[np.bool_]:
        """[n, T] who has a mask."""
        return np.array([[entry is not None for entry in row] for row in self.masks])


def write_video(task: Task, index: int) -> VideoEntries:
    """Draw the video of this number, and write its frames.

    Raises:
        ConfigError: no plan of many keeps to the settings.
        OutputError: a frame cannot be written.
        MissingDependencyError: OpenCV or pycocotools is not installed.
    """
    names = [f"{index + 1:05d}/{t:05d}.jpg" for t in range(task.config.frames)]

    def keep(t: int, frame: Frame) -> None:
        write_image(task.root / names[t], frame.image, _QUALITY)

    for attempt in range(ATTEMPTS):
        draft = draft_video(task.config, task.library, task.split, task.seed, index, attempt)
        if draft is None:
            continue
        drawn = _draw(draft, task.config, keep)
        # The plan was tried at a small size; a mask that is just too small may still join two absences.
        if allowed(drawn.seen, drawn.inside, task.config):
            return _entries(draft, drawn, task, index, names)
    raise ConfigError(
        f"none of {ATTEMPTS} plans for video {index + 1} keeps everyone's absences within {task.config.vanish[1]} "
        "frames; take fewer instances or occluders, or raise vanish"
    )


def _draw(draft: Draft, config: SynthConfig, keep: Callable[[int, Frame], None]) -> _Drawn:
    count = len(draft.identities)
    least = least_seen(draft.full_areas, config, min(config.size))
    masks: list[list[MaskEntry | None]] = [[] for _ in range(count)]
    hidden, inside = np.zeros((count, config.frames)), np.zeros((count, config.frames), np.bool_)
    for t, frame in enumerate(draft.frames()):
        keep(t, frame)
        seen = np.bincount(frame.owner.ravel(order="K"), minlength=count + 1)[1:]
        inside[:, t] = frame.areas > 0
        hidden[:, t] = 1 - seen / np.maximum(frame.areas, 1)
        for i in range(count):
            enough = seen[i] >= least[i, t]
            masks[i].append(mask_entry(frame.owner == i + 1) if enough else None)
    return _Drawn(masks, hidden, inside)


def _entries(draft: Draft, drawn: _Drawn, task: Task, index: int, names: Sequence[str]) -> VideoEntries:
    ids = [index * 100 + i + 1 for i in range(len(draft.identities))]
    alone = {group for group in draft.groups if draft.groups.count(group) == 1}
    annotations = []
    for i, identity in enumerate(draft.identities):
        shares = drawn.hidden[i].tolist()
        own = {
            "identity": f"{identity.kind}/{identity.name}",
            "group": None if draft.groups[i] in alone else draft.groups[i],
            "hidden": [
                round(share, 4) if there else None
                for share, there in zip(shares, drawn.inside[i], strict=True)
            ],
        }
        category = task.library.classes.index(task.library.class_of(identity)) + 1
        entry = {"id": ids[i], "video_id": index + 1, "category_id": category, "iscrowd": 0}
        annotations.append(entry | track_fields(drawn.masks[i], shares) | {"synth": own})
    height, width = task.config.size
    video = {"id": index + 1, "height": height, "width": width, "length": task.config.frames}
    return VideoEntries(video | {"file_names": list(names), "synth": _events(draft, drawn, ids)}, annotations)


def _events(draft: Draft, drawn: _Drawn, ids: Sequence[int]) -> Mapping[str, Any]:
    vanishings = [
        {"annotation_id": ids[v.instance], "start": v.start, "frames": v.frames, "how": v.how}
        for v in find_vanishings(drawn.seen, drawn.inside)
    ]
    meetings = [
        {
            "annotation_ids": [ids[i] for i in m.instances],
            "start": m.start,
            "frames": m.frames,
            "crossed": m.crossed,
            "look_alikes": len({draft.groups[i] for i in m.instances}) == 1,
        }
        for m in draft.meetings
    ]
    return {"vanishings": vanishings, "meetings": meetings}
