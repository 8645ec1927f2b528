"""The paper's Figure 5: the identities of a few frames with and without temporal weighting, row below row.

The same colour is the same identity of a row. An instance whose identity changed on the way has a bold outline, and its
tag says which it was; with annotations, likewise one whose identity was another instance's before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.faults import FaultLog
from idol_deploy.data.masks import Masks
from idol_deploy.data.rle import measure_rles
from idol_deploy.data.ytvis import Video, VisDataset, read_dataset
from idol_deploy.evaluate.track_iou import assign_tracks, count_switches
from idol_deploy.studies.figure.annotated import find_video
from idol_deploy.studies.figure.sheet import INK, colour_of, sheet
from idol_deploy.studies.figure.twin_runs import TAKEN_OVER, TwinFrame, choose_frames, find_changes
from idol_runtime.errors import ConfigError, DataError
from idol_runtime.frames import RGBImage
from idol_runtime.sources.opening import open_source
from idol_runtime.tracking.association import NO_TRACK
from idol_runtime.tracking.rle import decode_rle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Identities", "Truth", "draw_identities", "read_truth"]

_PANEL = 2.6  # inches
_FILL = 0.42


@dataclass(frozen=True)
class Identities:
    """What was drawn.

    Attributes:
        frames: numbers of the frames.
        differ: the runs disagree somewhere in the video on who is who.
        identities: of the whole video, in either run.
        changes: of identity in these frames, in either run.
        switches: of the whole video, in either run; None without annotations.
    """

    frames: tuple[int, ...]
    differ: bool
    identities: tuple[int, int]
    changes: tuple[int, int]
    switches: tuple[int, int] | None = None


@dataclass(frozen=True)
class Truth:
    """Annotations to hold both runs to.

    Attributes:
        dataset: that has them.
        video: which of its videos the source is.
    """

    dataset: VisDataset
    video: Video


def read_truth(gt: Path, video: str) -> Truth:
    """The annotations of a video, chosen by its id or folder.

    Raises:
        DataError: no such file, or no such video.
        MissingDependencyError: pycocotools is not installed.
    """
    dataset = read_dataset(gt, FaultLog())
    return Truth(dataset, find_video(dataset, video))


def draw_identities(
    frames: Sequence[TwinFrame],
    source: str,
    path: str | Path,
    *,
    names: tuple[str, str],
    indices: Sequence[int] | None = None,
    count: int = 3,
    truth: Truth | None = None,
    note: str = "",
) -> Identities:
    """Draw two runs of one video.

    Args:
        frames: of both, from `run_twins`.
        source: what they were run on; read again for its pictures.
        path: the picture.
        names: of the runs, for the rows.
        indices: of the frames to draw; None: where the runs differ most.
        count: how many to choose, without `indices`.
        truth: what the runs are held to; None: an identity counts as changed where the other run kept it.
        note: said of the weights.

    Raises:
        ConfigError: a frame that is not in the video, or too few.
        DataError: annotations of another video.
        SourceError: the source cannot be read again.
        OutputError, MissingDependencyError: the picture cannot be drawn or written.
    """
    positions = _positions(frames, indices, count)
    shown = [frames[position] for position in positions]
    whose, switches = (None, None) if truth is None else _held_to(frames, truth)
    of_shown = None if whose is None else [whose[position] for position in positions]
    changes = tuple(find_changes(shown, run, of_shown) for run in (0, 1))
    changed = tuple(sum(int((c != NO_TRACK).sum()) for c in of_run) for of_run in changes)
    identities = tuple(len(_ids(frames, run)) for run in (0, 1))
    pictures = _pictures(source, [frame.index for frame in shown])
    height, width = pictures[0].shape[:2]
    panel = _PANEL * height / width
    with sheet(path, (_PANEL * len(shown), 2 * panel + 0.9)) as figure:
        grid = figure.subplots(2, len(shown), squeeze=False)
        for run, row in enumerate(grid):
            for axes, picture, frame, change in zip(row, pictures, shown, changes[run], strict=True):
                _draw_frame(axes, picture, frame, run, change)
            said = f"{names[run]}: {identities[run]} identities in the video"
            if switches is not None:
                said += f", {switches[run]} switches"
            said += f"; {changed[run]} changed in these frames"
            row[0].set_title(said, loc="left", pad=10)
        for axes, frame in zip(grid[1], shown, strict=True):
            axes.set_xlabel(f"frame {frame.index}")
        if note:
            figure.supxlabel(note, fontsize=7)
    return Identities(
        tuple(frame.index for frame in shown),
        any((change != NO_TRACK).any() for run in (0, 1) for change in find_changes(frames, run)),
        (identities[0], identities[1]),
        (changed[0], changed[1]),
        switches,
    )


def _positions(frames: Sequence[TwinFrame], indices: Sequence[int] | None, count: int) -> list[int]:
    if indices is None:
        if not 2 <= count <= len(frames):
            raise ConfigError(f"cannot choose {count} frames of {len(frames)}; choose 2 to {len(frames)}")
        return choose_frames(frames, count)
    places = {frame.index: position for position, frame in enumerate(frames)}
    missing = [index for index in indices if index not in places]
    if missing:
        raise ConfigError(
            f"there is no frame {missing[0]} among those read, {frames[0].index} to {frames[-1].index}; choose others"
        )
    return [places[index] for index in sorted(set(indices))]


def _held_to(frames: Sequence[TwinFrame], truth: Truth) -> tuple[list[NDArray[np.int64]], tuple[int, int]]:
    """Of each frame's instances, which annotated one each is; and the switches of either run."""
    if frames[-1].index >= len(truth.video):
        raise DataError(
            f"video {truth.video.id} of {truth.dataset.path} has {len(truth.video)} frames and the source more; give "
            "the annotations of this video"
        )
    wanted = [frame.index for frame in frames]
    annotated = [
        Masks(track.masks.size, tuple(track.masks.counts[t] for t in wanted), track.masks.areas[wanted])
        for track in truth.dataset.tracks(truth.video.id)
        if not track.crowd
    ]
    whose = [np.full(len(frame.masks), NO_TRACK, np.int64) for frame in frames]
    switches = []
    for run in (1, 0):  # where both have an instance they agree on its mask, so the order is of no matter
        ids = sorted(_ids(frames, run))
        shown = assign_tracks(
            [_masks(frames, run, identity, truth.video.size) for identity in ids], annotated
        )
        switches.append(int(count_switches(shown).sum()))
        for g, row in enumerate(shown):
            for t in np.flatnonzero(row >= 0).tolist():
                whose[t][frames[t].ids[run] == ids[row[t]]] = g
    return whose, (switches[1], switches[0])


def _ids(frames: Sequence[TwinFrame], run: int) -> set[int]:
    return {identity for frame in frames for identity in frame.ids[run].tolist()} - {NO_TRACK}


def _masks(frames: Sequence[TwinFrame], run: int, identity: int, size: tuple[int, int]) -> Masks:
    counts: list[bytes | None] = []
    for frame in frames:
        (at,) = np.nonzero(frame.ids[run] == identity)
        rle = frame.masks[at[0]] if len(at) else None
        if rle is not None and tuple(rle["size"]) != size:
            raise DataError(
                f"the source's frames are {rle['size'][0]}x{rle['size'][1]} and those of the annotated video "
                f"{size[0]}x{size[1]}; give the annotations of this video"
            )
        counts.append(None if rle is None else rle["counts"].encode())
    areas, _ = measure_rles([c for c in counts if c is not None])
    whole = np.zeros(len(counts), np.int64)
    whole[[i for i, c in enumerate(counts) if c is not None]] = areas
    return Masks(size, tuple(c if area else None for c, area in zip(counts, whole, strict=True)), whole)


def _pictures(source: str, indices: Iterable[int]) -> list[RGBImage]:
    wanted = set(indices)
    with open_source(source, max_frames=max(wanted) + 1) as frames:
        return [frame.image for frame in frames if frame.index in wanted]


def _draw_frame(
    axes: "Axes",
    picture: RGBImage,
    frame: TwinFrame,
    run: int,
    changes: NDArray[np.int64],  # [n]
) -> None:
    from matplotlib.patheffects import Normal, Stroke

    blended = picture.astype(np.float32) / 255
    masks = [decode_rle(rle) for rle in frame.masks]
    tracked = [i for i in range(len(masks)) if frame.ids[run, i] != NO_TRACK]
    for i in tracked:
        colour = np.array(colour_of(int(frame.ids[run, i])), np.float32)
        blended[masks[i]] = (1 - _FILL) * blended[masks[i]] + _FILL * colour
    axes.imshow(blended, interpolation="bilinear")
    axes.set(xticks=[], yticks=[], xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
    axes.spines[:].set_visible(False)
    for i in tracked:
        identity, before = int(frame.ids[run, i]), int(changes[i])
        colour_of_id = colour_of(identity)
        width = 0.9 if before == NO_TRACK else 2.6
        if masks[i].any() and not masks[i].all():
            lines = axes.contour(masks[i], levels=[0.5], colors=[colour_of_id], linewidths=width)
            lines.set_path_effects([Stroke(linewidth=width + 1.2, foreground=INK), Normal()])
        told = {NO_TRACK: "", TAKEN_OVER: ", another's"}.get(before, f", was #{before}")
        left, top, right, bottom = frame.boxes_xyxy[i].tolist()
        axes.text(
            min(max((left + right) / 2, 0), picture.shape[1]),
            min(max((top + bottom) / 2, 0), picture.shape[0]),
            f"#{identity}{told}",
            fontsize=6.5,
            weight="normal" if before == NO_TRACK else "bold",
            ha="center",
            va="center",
            bbox={"facecolor": colour_of_id, "edgecolor": "none", "boxstyle": "square,pad=0.15"},
            in_layout=False,
        )
