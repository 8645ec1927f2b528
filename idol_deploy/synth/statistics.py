"""Statistics of a synthetic data set, counted from its annotations."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["summarise", "vanishing_of"]

_EXPIRY = 10  # frames after which the published tracker forgets an instance; such absences are counted apart


def summarise(
    videos: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], classes: Mapping[int, str]
) -> dict[str, Any]:
    """Count instances, masks, absences and meetings.

    Args:
        videos: entries of the annotation file.
        annotations: entries of the annotation file.
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
        "hidden_more_than_half": round(sum(share > 0.5 for share in hidden) / max(len(hidden), 1), 4),
        "hidden_at_all": round(sum(share > 0 for share in hidden) / max(len(hidden), 1), 4),
        "vanishings": {str(frames): vanished[frames] for frames in sorted(vanished)},
        "vanishings_before_expiry": sum(n for frames, n in vanished.items() if 2 <= frames < _EXPIRY),
        "vanishings_past_expiry": sum(n for frames, n in vanished.items() if frames >= _EXPIRY),
        "videos_with_3_to_9": sum(bool(vanishing_of(video, 3)) for video in videos),
        "crossings": sum(meeting["crossed"] for meeting in meetings),
        "crossings_of_look_alikes": sum(m["crossed"] and m["look_alikes"] for m in meetings),
        "meetings": len(meetings),
        "look_alike_pairs": sum(n * (n - 1) // 2 for n in groups.values()),
        "classes": {kind: kinds[kind] for kind in classes.values()},
        "identities": len({one["synth"]["identity"] for one in annotations}),
    }


def vanishing_of(video: Mapping[str, Any], least: int) -> list[Mapping[str, Any]]:
    """Return the absences of a video that last at least `least` frames and fewer than 10."""
    return [v for v in video["synth"]["vanishings"] if least <= v["frames"] < _EXPIRY]
