"""The paper's Figure 5: identities in a few frames with and without temporal weighting, one row per run.

A colour is an identity of its row. An instance with a changed identity has a bold outline and a tag with the former
identity; with annotations also an instance with an identity that belonged to another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.faults import FaultLog
from idol_deploy.data.masks import RunLengths
from idol_deploy.data.ytvis import Video, VisDataset, read_dataset
from idol_deploy.evaluate.track_iou import UNASSIGNED, assign_tracks, count_switches
from idol_deploy.studies.figure.annotated import find_video, without_crowds
from idol_deploy.studies.figure.paired_runs import TAKEN_OVER, PairedFrame, choose_frames, find_changes
from idol_deploy.studies.figure.sheet import INK, colour_of, sheet
from idol_deploy.studies.figure.tracks import checked_masks
from idol_runtime.errors import ConfigError, DataError
from idol_runtime.frames import RGBImage
from idol_runtime.sources.opening import open_source
from idol_runtime.tracking.association import NO_TRACK
from idol_runtime.tracking.rle import decode_rle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Identities", "draw_identities", "read_truth"]

_PANEL = 2.6  # inches
_FILL = 0.42  # opacity of masks


@dataclass(frozen=True)
class Identities:
    """The content of a figure of identities.

    Attributes:
        frames: indices of the frames drawn.
        differ: True if the runs disagree on an identity somewhere in the video.
        identities: number of identities in the video, per run.
        changes: number of changed identities in the frames drawn, per run.
        switches: number of identity switches in the video, per run; None without annotations.
    """

    frames: tuple[int, ...]
    differ: bool
    identities: tuple[int, int]
    changes: tuple[int, int]
    switches: tuple[int, int] | None = None


def read_truth(gt: Path, video: str, log: FaultLog | None = None) -> tuple[VisDataset, Video]:
    """Read the data set of annotations and find the video that is the source, by its id or folder.

    The log receives the annotations that are left out, and the crowds of the video.

    Raises:
        DataError: no such file or video.
        MissingDependencyError: pycocotools is not installed.
    """
    log = log or FaultLog()
    dataset = read_dataset(gt, log)
    match = find_video(dataset, video)
    without_crowds(dataset, match, log)
    return dataset, match


def draw_identities(
    frames: Sequence[PairedFrame],
    source: str,
    path: str | Path,
    *,
    names: tuple[str, str],
    indices: Sequence[int] | None = None,
    count: int = 3,
    truth: tuple[VisDataset, Video] | None = None,
    note: str = "",
) -> Identities:
    """Draw two runs of one video.

    Args:
        frames: frames of both runs, from `run_pair`.
        source: source of the frames, read again for the pictures.
        path: picture to write.
        names: titles of the two rows.
        indices: indices of the frames to draw; None (default): where the runs differ most.
        count: number of frames to choose without `indices` (default: 3).
        truth: annotations that define changed identities; None (default): the other run defines them.
        note: text on the weights, below the picture.

    Raises:
        ConfigError: a frame is not in the video, or there are too few frames.
        DataError: the annotations belong to another video.
        SourceError: the source cannot be read again.
        OutputError, MissingDependencyError: the picture cannot be drawn or written.
    """
    positions = _positions(frames, indices, count)
    shown = [frames[position] for position in positions]
    instances, switches = (None, None) if truth is None else _match_truth(frames, *truth)
    of_shown = None if instances is None else [instances[position] for position in positions]
    changes = [find_changes(shown, run, of_shown) for run in (0, 1)]
    changed = [sum(int((c != NO_TRACK).sum()) for c in of_run) for of_run in changes]
    identities = [len(_ids(frames, run)) for run in (0, 1)]
    numbers = {frame.index for frame in shown}
    with open_source(source, max_frames=max(numbers) + 1) as opened:
        pictures = [frame.image for frame in opened if frame.index in numbers]
    panel = _PANEL * pictures[0].shape[0] / pictures[0].shape[1]
    with sheet(path, (_PANEL * len(shown), 2 * panel + 0.9)) as figure:
        grid = figure.subplots(2, len(shown), squeeze=False)
        for run, row in enumerate(grid):
            for axes, picture, frame, change in zip(row, pictures, shown, changes[run], strict=True):
                _draw_frame(axes, picture, frame, run, change)
            of_run = "" if switches is None else f", {switches[run]} switches"
            title = f"{names[run]}: {identities[run]} identities in the video{of_run}; "
            row[0].set_title(f"{title}{changed[run]} changed in these frames", loc="left", pad=10)
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


def _positions(frames: Sequence[PairedFrame], indices: Sequence[int] | None, count: int) -> list[int]:
    if indices is None:
        if not 2 <= count <= len(frames):
            raise ConfigError(f"cannot choose {count} frames of {len(frames)}; choose 2 to {len(frames)}")
        return choose_frames(frames, count)
    positions = {frame.index: position for position, frame in enumerate(frames)}
    missing = [index for index in indices if index not in positions]
    if missing:
        raise ConfigError(
            f"there is no frame {missing[0]} among those read; choose frames of "
            f"{frames[0].index} to {frames[-1].index}"
        )
    return [positions[index] for index in sorted(set(indices))]


def _match_truth(
    frames: Sequence[PairedFrame], dataset: VisDataset, video: Video
) -> tuple[list[NDArray[np.int64]], tuple[int, int]]:
    """Return the annotated instance of each detection of each frame, and the identity switches of each run."""
    fix = "give the annotations of this video"
    if frames[-1].index >= len(video):
        raise DataError(
            f"video {video.id} of {dataset.path} has {len(video)} frames and the source more; {fix}"
        )
    other = {tuple(rle["size"]) for frame in frames for rle in frame.masks} - {video.size}
    if other:
        size = "x".join(map(str, other.pop()))
        raise DataError(
            f"the source's frames are {size} and those of the annotated video {video.size[0]}x{video.size[1]}; {fix}"
        )
    indices = [frame.index for frame in frames]
    annotated = [t.masks.at(indices) for t in dataset.tracks(video.id) if not t.crowd]
    instances = [np.full(len(frame.masks), NO_TRACK, np.int64) for frame in frames]
    switches = []
    for run in (1, 0):
        ids = sorted(_ids(frames, run))
        rows = [[_mask(frame, run, identity) for frame in frames] for identity in ids]
        assigned = assign_tracks(checked_masks("source", rows, video.size), annotated)
        switches.append(int(count_switches(assigned).sum()))
        for g, row in enumerate(assigned):
            for t in np.flatnonzero(row != UNASSIGNED).tolist():
                instances[t][frames[t].ids[run] == ids[row[t]]] = g
    return instances, (switches[1], switches[0])


def _ids(frames: Sequence[PairedFrame], run: int) -> set[int]:
    return {identity for frame in frames for identity in frame.ids[run].tolist()} - {NO_TRACK}


def _mask(frame: PairedFrame, run: int, identity: int) -> RunLengths | None:
    for i in np.flatnonzero(frame.ids[run] == identity):
        height, width = frame.masks[i]["size"]
        return RunLengths((height, width), frame.masks[i]["counts"])
    return None


def _draw_frame(
    axes: "Axes",
    picture: RGBImage,
    frame: PairedFrame,
    run: int,
    changes: NDArray[np.int64],  # [n]
) -> None:
    from matplotlib.patheffects import Normal, Stroke

    blended = picture.astype(np.float32) / 255
    masks = [decode_rle(rle) for rle in frame.masks]
    tracked = np.flatnonzero(frame.ids[run] != NO_TRACK).tolist()
    colours = {i: colour_of(int(frame.ids[run, i])) for i in tracked}
    for i in tracked:
        blended[masks[i]] = (1 - _FILL) * blended[masks[i]] + _FILL * np.array(colours[i], np.float32)
    axes.imshow(blended, interpolation="bilinear")
    axes.set(xticks=[], yticks=[], xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
    axes.spines[:].set_visible(False)
    for i in tracked:
        before = int(changes[i])
        width = 0.9 if before == NO_TRACK else 2.6
        if masks[i].any() and not masks[i].all():
            lines = axes.contour(masks[i], levels=[0.5], colors=[colours[i]], linewidths=width)
            lines.set_path_effects([Stroke(linewidth=width + 1.2, foreground=INK), Normal()])
        change = {NO_TRACK: "", TAKEN_OVER: ", another's"}.get(before, f", was #{before}")
        left, top, right, bottom = frame.boxes_xyxy[i].tolist()
        axes.text(
            min(max((left + right) / 2, 0), picture.shape[1]),
            min(max((top + bottom) / 2, 0), picture.shape[0]),
            f"#{frame.ids[run, i]}{change}",
            fontsize=6.5,
            weight="normal" if before == NO_TRACK else "bold",
            ha="center",
            va="center",
            bbox={"facecolor": colours[i], "edgecolor": "none", "boxstyle": "square,pad=0.15"},
            in_layout=False,
        )
