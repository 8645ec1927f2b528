"""Outputs of `idol-deploy run`: their options, and the check that all of them agree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idol_runtime.optional import load_cv2
from idol_runtime.tracking.rle import decode_rle

__all__ = ["check_outputs", "output_options", "read_lines", "video_length"]

# FFmpeg reads its log level when the first video of a process is opened, and tests open one before the command.
cv2 = load_cv2("reading videos of tests")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def video_length(path: Path) -> int:
    video = cv2.VideoCapture(str(path))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    return count


def output_options(outputs: dict[str, Path]) -> list[object]:
    flags = ("--save", "--jsonl", "--results", "--masks")
    return [part for pair in zip(flags, outputs.values(), strict=True) for part in pair]


def check_outputs(outputs: dict[str, Path], frames: int, *, step: int = 1) -> list[dict[str, Any]]:
    """Check that all four outputs contain the same frames, identities and masks."""
    lines = read_lines(outputs["a.jsonl"])
    assert [line["frame"] for line in lines] == list(range(0, frames * step, step))
    assert video_length(outputs["a.mp4"]) == frames
    pngs = sorted(outputs["masks"].iterdir())
    assert [path.name for path in pngs] == [f"{line['frame']:06d}.png" for line in lines]
    for line, png in zip(lines, pngs, strict=True):
        painted = np.asarray(Image.open(png)).astype(np.int64)
        expected = np.zeros(line["size"], np.int64)
        for instance in sorted(line["instances"], key=lambda instance: instance["score"]):
            expected[decode_rle(instance["mask"])] = instance["id"] + 1
        assert np.array_equal(painted, expected)
    _check_results(outputs["a.json"], lines)
    assert {path.name for path in outputs["masks"].parent.iterdir()} == set(outputs), "no partial file"
    return lines


def _check_results(path: Path, lines: list[dict[str, Any]]) -> None:
    """Check that every entry is a track of the JSON lines, with an empty mask for frames where it was not seen."""
    entries = json.loads(path.read_text())
    identities = {instance["id"] for line in lines for instance in line["instances"]}
    tracks = []
    for identity in identities:
        found = [[i["mask"] for i in line["instances"] if i["id"] == identity] for line in lines]
        tracks.append([masks[0] if masks else None for masks in found])
    assert entries
    for entry in entries:
        assert entry.keys() == {"video_id", "score", "category_id", "segmentations"}
        assert 0 < entry["score"] <= 1
        assert 1 <= entry["category_id"] <= 40
        masks = entry["segmentations"]
        assert any(
            all(
                ours == theirs if theirs else not decode_rle(ours).any()
                for ours, theirs in zip(masks, track, strict=True)
            )
            for track in tracks
        )
