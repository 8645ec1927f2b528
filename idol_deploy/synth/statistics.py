"""What a synthetic data set holds, counted from its annotations.

summary = summarise(videos, annotations, classes)
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["EXPIRY", "summarise", "vanishing_of"]

EXPIRY = 10  # frames after which the published tracker forgets; who vanishes for so long is counted apart

_MOSTLY = 0.5


def summarise(
    videos: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], classes: Mapping[int, str]
) -> dict[str, Any]:
    """Count.

    Args:
        videos: entries of the annotation file.
        annotations: the same.
        classes: names by category id.
    """
    hidden = [
        share
        for one in annotations
        for share, area in zip(one["synth"]["hidden"], one["areas"], strict=True)
        if area is not None
    ]
    vanished = Counter(v["frames"] for video in videos for v in video["synth"]["vanishings"])
    meetings = [meeting for video in videos for meeting in video["synth"]["meetings"]]
    grouped = (one for one in annotations if one["synth"]["group"] is not None)
    groups = Counter((one["video_id"], one["synth"]["group"]) for one in grouped)
    kinds = Counter(classes[one["category_id"]] for one in annotations)
    return {
        "videos": len(videos),
        "frames": sum(video["length"] for video in videos),
        "instances": len(annotations),
        "masks": len(hidden),
        "hidden_more_than_half": round(sum(share > _MOSTLY for share in hidden) / max(len(hidden), 1), 4),
        "hidden_at_all": round(sum(share > 0 for share in hidden) / max(len(hidden), 1), 4),
        "vanishings": {str(frames): vanished[frames] for frames in sorted(vanished)},
        "vanishings_before_expiry": sum(n for frames, n in vanished.items() if 2 <= frames < EXPIRY),
        "vanishings_past_expiry": sum(n for frames, n in vanished.items() if frames >= EXPIRY),
        "videos_with_3_to_9": sum(bool(vanishing_of(video, 3)) for video in videos),
        "crossings": sum(meeting["crossed"] for meeting in meetings),
        "crossings_of_look_alikes": sum(m["crossed"] and m["look_alikes"] for m in meetings),
        "meetings": len(meetings),
        "look_alike_pairs": sum(n * (n - 1) // 2 for n in groups.values()),
        "classes": {kind: kinds[kind] for kind in classes.values()},
        "identities": len({one["synth"]["identity"] for one in annotations}),
    }


def vanishing_of(video: Mapping[str, Any], least: int) -> list[Mapping[str, Any]]:
    """Those of a video in which an instance is away for at least so many frames, and fewer than `EXPIRY`."""
    return [v for v in video["synth"]["vanishings"] if least <= v["frames"] < EXPIRY]
