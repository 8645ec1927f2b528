"""Track timelines: frames and scores of each track of a video, and the annotated instance that it shows.

With annotations, a panel above has the annotated instances in the colours of the tracks that show them.
Letters: G annotated instances; T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.faults import FaultLog
from idol_deploy.data.ytvis import read_dataset
from idol_deploy.evaluate.track_iou import UNASSIGNED, assign_tracks, count_switches
from idol_deploy.studies.figure.annotated import find_video, without_crowds
from idol_deploy.studies.figure.sheet import PALE, colour_of, figure_target, sheet
from idol_deploy.studies.figure.tracks import ResultTrack, ResultTracks, read_tracks
from idol_runtime.errors import DataError
from idol_runtime.sinks.palette import id_colour, text_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Timeline", "draw_timeline"]

_ROW = 0.17  # inches
_WIDTH = 8.5  # inches
_MIN_SHADE = 0.25  # strength of a track's colour at score 0
_MISSED = "#d9d9d9"
_MIN_LABELLED = 0.04  # share of the frames from which a run has its track's number on it


@dataclass(frozen=True)
class Timeline:
    """The content of a timeline.

    Attributes:
        tracks: number of tracks in the file.
        instances: number of annotated instances; 0 without annotations.
        switches: number of identity switches; 0 without annotations.
        left_out: number of annotations that are left out and the first of each kind, one line per kind.
    """

    tracks: int
    instances: int = 0
    switches: int = 0
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Truth:
    names: list[str]  # G
    visible: NDArray[np.bool_]  # [G, T]
    assigned: NDArray[np.int64]  # [G, T] indices of tracks


def draw_timeline(
    results: Path, path: str | Path, *, gt: Path | None = None, video: str | None = None, most: int = 40
) -> Timeline:
    """Draw a results file.

    Args:
        results: JSON lines or `results.json` of `run`.
        path: picture to write.
        gt: annotations of the video (default: none).
        video: video of the annotations, and of a `results.json` with several: its id, or with `gt` its folder.
        most: number of tracks to draw, those with most frames first (default: 40).

    Raises:
        DataError: a file cannot be read, or results and annotations are of different videos.
        ConfigError, OutputError, MissingDependencyError: the picture cannot be drawn or written.
    """
    figure_target(path)
    log = FaultLog()
    results_of_video, truth = _read(results, gt, video, log)
    tracks = results_of_video.tracks
    if not tracks:
        raise DataError(f"{results} has no tracks; run with a lower --score, or on a video with instances")
    longest = {track.id for track in sorted(tracks, key=lambda track: -len(track.masks.frames))[:most]}
    drawn = [track for track in tracks if track.id in longest]
    rows = [len(drawn) + 1.0] if truth is None else [len(truth.names) + 1.6, len(drawn) + 1]
    with sheet(path, (_WIDTH, _ROW * sum(rows) + 0.8)) as figure:
        ratios = {"height_ratios": rows}
        panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False, gridspec_kw=ratios)[:, 0]
        if truth is not None:
            _draw_truth(panels[0], results_of_video, truth)
        _draw_tracks(panels[-1], results_of_video, drawn)
        panels[-1].set_xlabel("frame")
    if truth is None:
        return Timeline(len(tracks))
    switches = int(count_switches(truth.assigned).sum())
    return Timeline(len(tracks), len(truth.names), switches, tuple(log.summary()))


def _read(
    path: Path, gt: Path | None, video: str | None, log: FaultLog
) -> tuple[ResultTracks, _Truth | None]:
    if gt is None:
        if video is not None and not video.isdecimal():
            raise DataError(
                f"--video {video} is a name, which needs annotations; give its id, or --gt as well"
            )
        return read_tracks(path, video_id=None if video is None else int(video)), None
    dataset = read_dataset(gt, log)
    names = {category.dataset_id: category.name for category in dataset.categories}
    chosen = None if video is None else find_video(dataset, video)
    results = read_tracks(path, video_id=None if chosen is None else chosen.id, names=names)
    if chosen is None:
        if results.video_id is None:
            raise DataError(f"{path} has no video id; give --video, the id or folder of its video in {gt}")
        chosen = find_video(dataset, str(results.video_id))
    last = int(results.frames.max(initial=0))
    if results.size != chosen.size or last >= len(chosen):
        raise DataError(
            f"{path} has frames of {results.size[0]}x{results.size[1]} up to number {last}, video {chosen.id} of {gt} "
            f"has {len(chosen)} of {chosen.size[0]}x{chosen.size[1]}; give the results of this video"
        )
    frames = results.frames.tolist()
    annotated = [(t, t.masks.at(frames)) for t in without_crowds(dataset, chosen, log)]
    annotated = [(track, masks) for track, masks in annotated if masks.frames]
    instances = [masks for _, masks in annotated]
    visible = np.array([masks.areas > 0 for masks in instances], np.bool_).reshape(-1, len(frames))
    assigned = assign_tracks([track.masks for track in results.tracks], instances).reshape(visible.shape)
    return results, _Truth([names[track.category_id] for track, _ in annotated], visible, assigned)


def _draw_tracks(axes: "Axes", results: ResultTracks, drawn: Sequence[ResultTrack]) -> None:
    for row, track in enumerate(drawn):
        # In steps of a tenth, so that a run of nearly equal scores is one bar.
        tenths = np.where(np.isnan(track.scores), UNASSIGNED, np.rint(np.nan_to_num(track.scores) * 10))
        for first, last, value in _runs(tenths.astype(np.int64)):
            strength = _MIN_SHADE + (1 - _MIN_SHADE) * value / 10
            colour = tuple(1 - strength * (1 - channel) for channel in colour_of(track.id))
            _draw_bar(axes, row, results.frames, first, last, colour)
    hidden = len(results.tracks) - len(drawn)
    title = f"{len(results.tracks)} tracks, the stronger the colour the higher the score"
    _finish(
        axes,
        [f"{track.name} #{track.id}" for track in drawn],
        f"{title}; {hidden} shorter ones are left out" if hidden else title,
        [f"{np.nanmean(track.scores):.2f}" for track in drawn],
    )


def _draw_truth(axes: "Axes", results: ResultTracks, truth: _Truth) -> None:
    frames = results.frames
    for row, (visible, assigned) in enumerate(zip(truth.visible, truth.assigned, strict=True)):
        for first, last, _ in _runs(np.where(visible, 0, UNASSIGNED)):
            _draw_bar(axes, row, frames, first, last, _MISSED)
        for first, last, index in _runs(assigned):
            identity = results.tracks[index].id
            _draw_bar(axes, row, frames, first, last, colour_of(identity))
            if last - first >= _MIN_LABELLED * len(frames):
                style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6}
                dark = text_colour(id_colour(identity)) == (0, 0, 0)
                middle = (frames[first] + frames[last]) / 2
                axes.text(middle, row, f"#{identity}", color="black" if dark else "white", **style)
        shown = np.flatnonzero(assigned != UNASSIGNED)
        for t in shown[1:][np.diff(assigned[shown]) != 0]:
            axes.plot([frames[t] - 0.5] * 2, [row - 0.46, row + 0.46], color="black", linewidth=1.6)
    covered = (truth.assigned != UNASSIGNED).sum(1) / np.maximum(truth.visible.sum(1), 1)
    _finish(
        axes,
        [f"{name} {row}" for row, name in enumerate(truth.names)],
        f"{len(truth.names)} annotated instances in the colour of the track that shows them, grey where none does; "
        f"{count_switches(truth.assigned).sum()} switches (black)",
        [f"{share:.0%}" for share in covered],
    )


def _draw_bar(axes: "Axes", row: int, frames: NDArray[np.int64], first: int, last: int, colour: Any) -> None:
    step = int(np.diff(frames).min(initial=1 << 30)) if len(frames) > 1 else 1
    start, stop = frames[first] - 0.5, frames[last] + step - 0.5
    axes.broken_barh([(start, stop - start)], (row - 0.38, 0.76), facecolor=colour, linewidth=0)


def _finish(axes: "Axes", labels: Sequence[str], title: str, notes: Sequence[str]) -> None:
    """Write the labels on the left, the notes on the right of the rows, and the title."""
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left")
    axes.margins(x=0.005)
    style: dict[str, Any] = {"va": "center", "fontsize": 6.5, "color": PALE, "textcoords": "offset points"}
    for row, note in enumerate(notes):
        axes.annotate(note, (1, row), (4, 0), xycoords=("axes fraction", "data"), **style)


def _runs(values: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Return (first, last, value) of each run of equal values [T] other than `UNASSIGNED`."""
    edges = np.flatnonzero(np.diff(values)) + 1
    starts, stops = [0, *edges.tolist()], [*edges.tolist(), len(values)]
    runs = ((a, b - 1, int(values[a])) for a, b in zip(starts, stops, strict=True))
    return [run for run in runs if run[2] != UNASSIGNED]
