"""Small data sets of moving shapes, drawn here: exact masks, occlusion, and no licence to ask about.

    made = make_videos("build/shapes", videos=4)
    VideoPairs.open(made.annotations, made.frames, config)

Discs, squares and triangles of one colour each move across a textured ground, bounce off its edges, and hide each
other. The same arguments give the same files. For tests, first steps and timing; too easy to learn anything from.

T: frames; H, W: height and width in pixels; n: shapes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_runtime.errors import OutputError
from idol_runtime.files import replacing
from idol_runtime.rle import encode_rle

__all__ = ["SHAPES", "Clip", "MadeDataset", "draw_clip", "make_stills", "make_videos"]

SHAPES = ("disc", "square", "triangle")
_LEVELS = ((0.0, "no_occlusion"), (0.5, "slight_occlusion"), (1.0, "severe_occlusion"))  # share hidden, up to


@dataclass(frozen=True)
class MadeDataset:
    """Where a data set lies.

    Attributes:
        annotations: JSON.
        frames: the folder that its names start from.
    """

    annotations: Path
    frames: Path


@dataclass(frozen=True, eq=False)
class Clip:
    """A video of shapes.

    Attributes:
        frames: [T, H, W, 3] uint8 RGB.
        masks: [n, T, H, W] bool, what is seen of each shape.
        hidden: [n, T] share of each shape that others hide, of what is inside the frame; 0 outside.
        labels: n indices into `SHAPES`.
    """

    frames: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    hidden: NDArray[np.float64]
    labels: tuple[int, ...]


def draw_clip(frames: int, size: tuple[int, int], shapes: int, seed: int) -> Clip:
    """Draw a video.

    Args:
        frames: T.
        size: (H, W).
        shapes: n; the later ones are in front.
        seed: decides everything else.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    ground = rng.integers(70, 130, (-(-height // 8), -(-width // 8), 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(ground).resize((width, height), Image.Resampling.BILINEAR))
    video = np.repeat(image[None], frames, axis=0)
    labels = tuple(int(label) for label in rng.integers(len(SHAPES), size=shapes))
    whole = np.stack([_moving(label, frames, size, rng) for label in labels])
    masks = whole.copy()
    for i in range(shapes):
        masks[i] &= ~whole[i + 1 :].any(0)
        video[masks[i]] = np.where(np.arange(3) == rng.integers(3), 230, rng.integers(0, 60, 3))
    area = whole.sum((2, 3))
    hidden = 1 - masks.sum((2, 3)) / np.maximum(area, 1)
    return Clip(video, masks, np.where(area > 0, hidden, 0.0), labels)


def make_videos(
    folder: str | Path,
    *,
    videos: int = 2,
    frames: int = 8,
    size: tuple[int, int] = (120, 160),
    shapes: int = 3,
    seed: int = 0,
    form: Literal["ytvis", "ovis"] = "ytvis",
) -> MadeDataset:
    """Write videos as YouTube-VIS or OVIS do: frames in folders below `JPEGImages`, and `instances.json`.

    Args:
        folder: where to; made if it isn't there.
        videos: how many.
        frames: of each.
        size: (H, W) of the frames.
        shapes: in each video.
        seed: the same gives the same files.
        form: `ovis` adds how far each instance is hidden.

    Raises:
        OutputError: the folder cannot be written.
        MissingDependencyError: pycocotools is not installed.
    """
    root = Path(folder)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for video in range(1, videos + 1):
        clip = draw_clip(frames, size, shapes, seed * 1_000_003 + video)
        names = [f"{video:04d}/{frame:05d}.jpg" for frame in range(frames)]
        _write_images(root / "JPEGImages", names, clip.frames)
        entries.append(
            {"id": video, "height": size[0], "width": size[1], "length": frames, "file_names": names}
        )
        for label, masks, hidden in zip(clip.labels, clip.masks, clip.hidden, strict=True):
            number = {"id": len(annotations) + 1, "video_id": video, "category_id": label + 1, "iscrowd": 0}
            annotations.append(number | _track(masks, hidden, form))
    return _write_annotations(root, {"videos": entries, "annotations": annotations})


def make_stills(
    folder: str | Path,
    *,
    images: int = 6,
    size: tuple[int, int] = (120, 160),
    shapes: int = 3,
    seed: int = 0,
) -> MadeDataset:
    """Write images as COCO does; arguments and errors as `make_videos`."""
    root = Path(folder)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        clip = draw_clip(1, size, shapes, seed * 1_000_003 + image)
        name = f"{image:012d}.jpg"
        _write_images(root / "JPEGImages", [name], clip.frames)
        entries.append({"id": image, "height": size[0], "width": size[1], "file_name": name})
        for label, mask in zip(clip.labels, clip.masks[:, 0], strict=True):
            if mask.any():
                number = {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "iscrowd": 0,
                }
                place = {"segmentation": encode_rle(mask), "bbox": _box(mask), "area": int(mask.sum())}
                annotations.append(number | place)
    return _write_annotations(root, {"images": entries, "annotations": annotations})


def _moving(
    label: int, frames: int, size: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.bool_]:  # [T, H, W]
    """A shape on its way, all of it; at least three quarters inside the frame."""
    height, width = size
    radius = rng.uniform(0.12, 0.22) * min(size)
    room = np.array([height, width]) - radius
    start, step = rng.uniform(radius / 2, room), rng.uniform(-0.06, 0.06, 2) * min(size)
    rows, columns = np.ogrid[:height, :width]
    masks = np.empty((frames, height, width), np.bool_)
    for t in range(frames):
        # A triangle wave: it goes back and forth between the edges.
        period = room - radius / 2
        y, x = radius / 2 + np.abs((start + t * step - radius / 2 + period) % (2 * period) - period)
        dy, dx = rows - y, columns - x
        masks[t] = (
            dy**2 + dx**2 < radius**2,
            np.maximum(np.abs(dy), np.abs(dx)) < 0.85 * radius,
            (dy < radius * 0.8) & (2 * np.abs(dx) < dy + radius),
        )[label]
    return masks


def _track(
    masks: NDArray[np.bool_],  # [T, H, W]
    hidden: NDArray[np.float64],  # [T]
    form: str,
) -> dict[str, Any]:
    seen = [bool(mask.any()) for mask in masks]
    track: dict[str, Any] = {
        "segmentations": [encode_rle(mask) if mask.any() else None for mask in masks],
        "bboxes": [_box(mask) if mask.any() else None for mask in masks],
        "areas": [int(mask.sum()) or None for mask in masks],
    }
    if form == "ovis":
        levels = [next(name for most, name in _LEVELS if share <= most) for share in hidden.tolist()]
        track["occlusion"] = [level if there else None for level, there in zip(levels, seen, strict=True)]
    return track


def _box(mask: NDArray[np.bool_]) -> list[int]:
    """[left, top, width, height]."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def _write_images(folder: Path, names: Sequence[str], images: NDArray[np.uint8]) -> None:
    try:
        for name, image in zip(names, images, strict=True):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # Colours as sharp as the masks.
            Image.fromarray(image).save(path, quality=95, subsampling=0)
    except OSError as error:
        raise OutputError(
            f"cannot write below {folder}: {error.strerror or error}; choose another place"
        ) from error


def _write_annotations(root: Path, content: dict[str, Any]) -> MadeDataset:
    categories = [{"id": i, "name": name} for i, name in enumerate(SHAPES, start=1)]
    path = root / "instances.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content | {"categories": categories}))
    return MadeDataset(path, root / "JPEGImages")
