"""One video of the data set: its frames, and its entries in the annotation file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.annotations import MaskEntry, mask_entry, track_fields, write_image
from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.events import find_vanishings
from idol_deploy.synth.identities import Library, Split
from idol_deploy.synth.video import Draft, allowed, draft_video, least_seen
from idol_runtime.errors import ConfigError

__all__ = ["ATTEMPTS", "Task", "VideoEntries", "write_video"]

ATTEMPTS = 100  # plans that are tried for a video
_QUALITY = 92  # of the JPEG files


@dataclass(frozen=True)
class Task:
    """The values that all videos of a data set share.

    Attributes:
        config: settings.
        library: available identities.
        split: split of the identities.
        seed: seed of the data set.
        root: folder of the frames.
    """

    config: SynthConfig
    library: Library
    split: Split
    seed: int
    root: Path


@dataclass(frozen=True)
class VideoEntries:
    """The entries of a video in the annotation file.

    Attributes:
        video: entry of the video.
        annotations: entries of its instances.
    """

    video: dict[str, Any]
    annotations: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class _Drawn:
    """The annotations of drawn frames: masks [n][T], hidden shares [n, T], and presence within the frame [n, T]."""

    masks: list[list[MaskEntry | None]]
    hidden: NDArray[np.float64]
    inside: NDArray[np.bool_]

    @property
    def visible(self) -> NDArray[np.bool_]:
        """Visibility of each instance, [n, T]: whether it has a mask."""
        return np.array([[entry is not None for entry in row] for row in self.masks])


def write_video(task: Task, index: int) -> VideoEntries:
    """Draw the video with this number and write its frames.

    Raises:
        ConfigError: none of the plans is allowed by the settings.
        OutputError: a frame cannot be written.
        MissingDependencyError: OpenCV or pycocotools is not installed.
    """
    config = task.config
    names = [f"{index + 1:05d}/{t:05d}.jpg" for t in range(config.frames)]
    for attempt in range(ATTEMPTS):
        draft = draft_video(config, task.library, task.split, task.seed, index, attempt)
        if draft is None:
            continue
        drawn = _draw(draft, config, [task.root / name for name in names])
        # The plan was checked at a small size. At full size, a mask that is just too small can join two absences.
        if allowed(drawn.visible, drawn.inside, config):
            return _entries(draft, drawn, task, index, names)
    raise ConfigError(
        f"none of {ATTEMPTS} plans for video {index + 1} limits every absence to {config.vanish[1]} frames; take fewer "
        "instances or occluders, or raise vanish"
    )


def _draw(draft: Draft, config: SynthConfig, files: Sequence[Path]) -> _Drawn:
    count = len(draft.identities)
    least = least_seen(draft.full_areas, config, min(config.size))
    masks: list[list[MaskEntry | None]] = [[] for _ in range(count)]
    hidden, inside = np.zeros((count, config.frames)), np.zeros((count, config.frames), np.bool_)
    for t, frame in enumerate(draft.frames()):
        write_image(files[t], frame.image, _QUALITY)
        seen = np.bincount(frame.owner.ravel(order="K"), minlength=count + 1)[1:]
        inside[:, t] = frame.areas > 0
        hidden[:, t] = 1 - seen / np.maximum(frame.areas, 1)
        for i in range(count):
            masks[i].append(mask_entry(frame.owner == i + 1) if seen[i] >= least[i, t] else None)
    return _Drawn(masks, hidden, inside)


def _entries(draft: Draft, drawn: _Drawn, task: Task, index: int, names: Sequence[str]) -> VideoEntries:
    ids = [index * 100 + i + 1 for i in range(len(draft.identities))]
    annotations = []
    for i, (identity, group) in enumerate(zip(draft.identities, draft.groups, strict=True)):
        shares = drawn.hidden[i].tolist()
        inside = zip(shares, drawn.inside[i], strict=True)
        synth = {
            "identity": f"{identity.kind}/{identity.name}",
            "group": group if draft.groups.count(group) > 1 else None,
            "hidden": [round(share, 4) if present else None for share, present in inside],
        }
        category = task.library.classes.index(task.library.class_of(identity)) + 1
        entry = {"id": ids[i], "video_id": index + 1, "category_id": category, "iscrowd": 0}
        annotations.append(entry | track_fields(drawn.masks[i], shares) | {"synth": synth})
    vanishings = [
        {"annotation_id": ids[v.instance], "start": v.start, "frames": v.frames, "how": v.how}
        for v in find_vanishings(drawn.visible, drawn.inside)
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
    height, width = task.config.size
    video = {"id": index + 1, "height": height, "width": width, "length": task.config.frames}
    events = {"vanishings": vanishings, "meetings": meetings}
    return VideoEntries(video | {"file_names": list(names), "synth": events}, annotations)
