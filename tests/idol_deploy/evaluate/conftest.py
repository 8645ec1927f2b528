"""Inputs and outputs of the official evaluators, and random data sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_runtime.tracking.rle import encode_rle


@pytest.fixture(scope="session")
def official() -> Path:
    """The folder of inputs and outputs."""
    return Path(__file__).parents[2] / "data" / "ytvis_eval"


def _rectangle(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.bool_)
    (top, bottom), (left, right) = (
        np.sort(rng.integers(0, height + 1, 2)),
        np.sort(rng.integers(0, width + 1, 2)),
    )
    mask[top:bottom, left:right] = True
    return mask


def make_set(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return annotations and results with all special cases of the rules.

    Ties of scores and overlaps, crowds, frames and whole tracks without a mask, classes and videos without instances or
    results, id 0, sizes of all three kinds, unordered ids, now and then more than 100 results.
    """
    rng = np.random.default_rng(seed)
    categories = [3, 1, 7][: rng.integers(1, 4)]
    videos, annotations, results = [], [], []
    labels = ("no_occlusion", "slight_occlusion", "severe_occlusion")

    def segmentations(masks: list[np.ndarray]) -> list[Any]:
        never = rng.random() < 0.1
        return [None if never or rng.random() < 0.2 else encode_rle(mask) for mask in masks]

    for video_id in rng.permutation(int(rng.integers(1, 4))).tolist():
        height, width = (int(rng.choice([12, 140, 290])) for _ in range(2))
        frames = int(rng.integers(1, 4))
        names = [f"{video_id}/{t}.jpg" for t in range(frames)]
        videos.append(
            {"id": video_id, "height": height, "width": width, "length": frames, "file_names": names}
        )
        pool = [[_rectangle(rng, height, width) for _ in range(frames)] for _ in range(3)]
        for _ in range(rng.integers(0, 5)):
            entry = {"id": len(annotations), "video_id": video_id, "category_id": int(rng.choice(categories))}
            entry |= {
                "iscrowd": int(rng.random() < 0.2),
                "segmentations": segmentations(pool[rng.integers(3)]),
            }
            seen = entry["segmentations"]
            entry["occlusion"] = [None if mask is None else str(rng.choice(labels)) for mask in seen]
            annotations.append(entry)
        for _ in range(rng.integers(0, 8) if rng.random() < 0.95 else 120):
            masks = [np.roll(mask, int(rng.integers(0, 3)), 0) for mask in pool[rng.integers(3)]]
            entry = {"video_id": video_id, "category_id": int(rng.choice(categories))}
            entry |= {
                "score": float(rng.choice([0.2, 0.5, rng.random()])),
                "segmentations": segmentations(masks),
            }
            results.append(entry)
    named = [{"id": i, "name": f"class {i}"} for i in categories]
    order = rng.permutation(len(results))
    return {"videos": videos, "categories": named, "annotations": annotations}, [results[i] for i in order]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Path, Path]]:
    """A function that writes annotations and results of a random data set."""
    folder = tmp_path_factory.mktemp("made")

    def write(seed: int) -> tuple[Path, Path]:
        paths = folder / "gt.json", folder / "pred.json"
        for path, contents in zip(paths, make_set(seed), strict=True):
            path.write_text(json.dumps(contents))
        return paths

    return write
