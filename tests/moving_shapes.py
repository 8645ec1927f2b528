"""Small data sets of moving shapes with exact masks and occlusion, for tests, benchmarks and first trials.

    made = make_videos("build/shapes", videos=4)
    open_pairs(made.annotations, made.frames, config)

Discs, squares and triangles of one colour move across a textured ground, bounce off its edges and occlude each other.
Equal arguments give equal files. `idol-deploy synth` draws harder videos.

Letters: T frames; H x W height and width in pixels; n shapes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_deploy.data.annotations import mask_entry, track_fields, write_image
from idol_runtime.files import replacing

__all__ = ["SHAPES", "Clip", "MadeDataset", "draw_clip", "make_stills", "make_videos"]

SHAPES = ("disc", "square", "triangle")


@dataclass(frozen=True)
class MadeDataset:
    """The files of a data set.

    Attributes:
        annotations: annotation file.
        frames: folder that its file names start from.
    """

    annotations: Path
    frames: Path


@dataclass(frozen=True, eq=False)
class Clip:
    """A video of shapes.

    Attributes:
        frames: [T, H, W, 3] uint8 RGB.
        masks: [n, T, H, W] bool, visible part of each shape.
        hidden: [n, T] share of each shape inside the frame that others hide; 0 outside the frame.
        labels: n indices into `SHAPES`.
    """

    frames: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    hidden: NDArray[np.float64]
    labels: tuple[int, ...]


def draw_clip(frames: int, size: tuple[int, int], shapes: int, seed: int) -> Clip:
    """Draw a video.

    Args:
        frames: number of frames T.
        size: (H, W) in pixels.
        shapes: number of shapes n; later ones are in front.
        seed: seed of everything else.
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
    """Write videos in the format of YouTube-VIS or OVIS: folders of frames in `JPEGImages`, and `instances.json`.

    Args:
        folder: folder to write; created if needed.
        videos: number of videos.
        frames: frames per video.
        size: (H, W) of the frames in pixels.
        shapes: shapes per video.
        seed: seed of the data set.
        form: `ytvis` (default), or `ovis` with occlusion.

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
        for frame_name, frame in zip(names, clip.frames, strict=True):
            write_image(root / "JPEGImages" / frame_name, frame)
        entries.append(
            {"id": video, "height": size[0], "width": size[1], "length": frames, "file_names": names}
        )
        for label, masks, hidden in zip(clip.labels, clip.masks, clip.hidden, strict=True):
            number = {"id": len(annotations) + 1, "video_id": video, "category_id": label + 1, "iscrowd": 0}
            shares = hidden.tolist() if form == "ovis" else None
            annotations.append(number | track_fields(list(map(mask_entry, masks)), shares))
    return _write_annotations(root, {"videos": entries, "annotations": annotations})


def make_stills(
    folder: str | Path, *, images: int = 6, size: tuple[int, int] = (120, 160), shapes: int = 3, seed: int = 0
) -> MadeDataset:
    """Write images in the format of COCO; arguments and errors as `make_videos`."""
    root = Path(folder)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        clip = draw_clip(1, size, shapes, seed * 1_000_003 + image)
        name = f"{image:012d}.jpg"
        write_image(root / "JPEGImages" / name, clip.frames[0])
        entries.append({"id": image, "height": size[0], "width": size[1], "file_name": name})
        for label, mask in zip(clip.labels, clip.masks[:, 0], strict=True):
            entry = mask_entry(mask)
            if entry is not None:
                number = {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "iscrowd": 0,
                }
                place = dict(zip(("segmentation", "bbox", "area"), entry, strict=True))
                annotations.append(number | place)
    return _write_annotations(root, {"images": entries, "annotations": annotations})


def _moving(
    label: int, frames: int, size: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.bool_]:  # [T, H, W]
    """Draw the whole shape in every frame, with at least three quarters inside the frame."""
    height, width = size
    radius = rng.uniform(0.12, 0.22) * min(size)
    room = np.array([height, width]) - radius
    start, step = rng.uniform(radius / 2, room), rng.uniform(-0.06, 0.06, 2) * min(size)
    rows, columns = np.ogrid[:height, :width]
    masks = np.empty((frames, height, width), np.bool_)
    for t in range(frames):
        # A triangle wave: the shape moves back and forth between the edges.
        period = room - radius / 2
        y, x = radius / 2 + np.abs((start + t * step - radius / 2 + period) % (2 * period) - period)
        dy, dx = rows - y, columns - x
        masks[t] = (
            dy**2 + dx**2 < radius**2,
            np.maximum(np.abs(dy), np.abs(dx)) < 0.85 * radius,
            (dy < radius * 0.8) & (2 * np.abs(dx) < dy + radius),
        )[label]
    return masks


def _write_annotations(root: Path, content: dict[str, Any]) -> MadeDataset:
    categories = [{"id": i, "name": name} for i, name in enumerate(SHAPES, start=1)]
    path = root / "instances.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content | {"categories": categories}))
    return MadeDataset(path, root / "JPEGImages")
