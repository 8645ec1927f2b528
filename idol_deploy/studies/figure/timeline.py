"""Track timelines: when each identity of a video was seen, how sure the network was, and whom it showed.

Above, where there are annotations: the annotated instances, each in the colours of the tracks that show it.
G: annotated instances; T: frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from idol_deploy.data.faults import FaultLog
from idol_deploy.data.masks import Masks
from idol_deploy.data.ytvis import read_dataset
from idol_deploy.evaluate.track_iou import UNASSIGNED, assign_tracks, count_switches
from idol_deploy.studies.figure.annotated import find_video
from idol_deploy.studies.figure.sheet import PALE, colour_of, figure_target, sheet
from idol_deploy.studies.figure.tracks import FoundTrack, FoundTracks, read_tracks
from idol_runtime.errors import DataError
from idol_runtime.sinks.palette import id_colour, text_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Timeline", "draw_timeline"]

_ROW = 0.17  # inches
_WIDTH = 8.5
_LEAST_SHADE = 0.25  # of a track's colour, at score 0
_MISSED = "#d9d9d9"
_LABELLED = 0.04  # of the frames: as long as a run must be to hold its track's number


@dataclass(frozen=True)
class Timeline:
    """What was drawn.

    Attributes:
        tracks: identities in the file.
        instances: annotated ones; 0 without annotations.
        switches: how often an instance went from one track to another.
    """

    tracks: int
    instances: int = 0
    switches: int = 0


@dataclass(frozen=True, eq=False)
class _Truth:
    names: list[str]  # G
    seen: NDArray[np.bool_]  # [G, T]
    shown: NDArray[np.int64]  # [G, T] numbers of tracks


def draw_timeline(
    results: Path, path: str | Path, *, gt: Path | None = None, video: str | None = None, most: int = 40
) -> Timeline:
    """Draw a results file.

    Args:
        results: JSON lines or `results.json`, as `run` writes them.
        path: the picture.
        gt: annotations of the video.
        video: which of the annotations, and of a `results.json` with several: its id, or its folder with `gt`.
        most: tracks to draw; the ones seen longest.

    Raises:
        DataError: a file that cannot be read, or that is of another video than the other.
        ConfigError, OutputError, MissingDependencyError: the picture cannot be drawn or written there.
    """
    figure_target(path)
    found, truth = _read(results, gt, video)
    if not found.tracks:
        raise DataError(f"{results} has no tracks; run with a lower --score, or on a video with instances")
    by_length = sorted(found.tracks, key=lambda track: -len(track.masks.frames))
    kept = {track.id for track in by_length[:most]}
    drawn = [track for track in found.tracks if track.id in kept]
    rows = (len(truth.names) + 1.6 if truth else 0, len(drawn) + 1)
    ratio = {"height_ratios": rows} if truth else {}
    with sheet(path, (_WIDTH, _ROW * sum(rows) + 0.8)) as figure:
        grid = figure.subplots(1 + (truth is not None), 1, sharex=True, squeeze=False, gridspec_kw=ratio)[
            :, 0
        ]
        if truth is not None:
            _draw_truth(grid[0], found, truth)
        _draw_tracks(grid[-1], found, drawn)
        grid[-1].set_xlabel("frame")
    if truth is None:
        return Timeline(len(found.tracks))
    return Timeline(len(found.tracks), len(truth.names), int(count_switches(truth.shown).sum()))


def _read(results: Path, gt: Path | None, video: str | None) -> tuple[FoundTracks, _Truth | None]:
    if gt is None:
        if video is not None and not video.isdecimal():
            raise DataError(
                f"--video {video} is a name, which only annotations have; give its id, or --gt as well"
            )
        return read_tracks(results, video_id=None if video is None else int(video)), None
    dataset = read_dataset(gt, FaultLog())
    names = {category.dataset_id: category.name for category in dataset.categories}
    chosen = None if video is None else find_video(dataset, video)
    found = read_tracks(results, video_id=None if chosen is None else chosen.id, names=names)
    if chosen is None:
        if found.video_id is None:
            raise DataError(
                f"{results} does not say of which video it is; give --video, its id or folder in {gt}"
            )
        chosen = find_video(dataset, str(found.video_id))
    last = int(found.frames.max(initial=0))
    if found.size != chosen.size or last >= len(chosen):
        raise DataError(
            f"{results} has frames of {found.size[0]}x{found.size[1]} up to number {last}, video {chosen.id} of {gt} "
            f"has {len(chosen)} of {chosen.size[0]}x{chosen.size[1]}; give the results of this video"
        )
    tracks = [track for track in dataset.tracks(chosen.id) if not track.crowd]
    masks = [_at(track.masks, found.frames) for track in tracks]
    kept = [i for i, mask in enumerate(masks) if mask.areas.any()]
    truth = [masks[i] for i in kept]
    seen = np.array([mask.areas > 0 for mask in truth], np.bool_).reshape(len(truth), len(found.frames))
    shown = assign_tracks([track.masks for track in found.tracks], truth)
    return found, _Truth([names[tracks[i].category_id] for i in kept], seen, shown.reshape(seen.shape))


def _at(masks: Masks, frames: NDArray[np.int64]) -> Masks:
    """Of these frames alone."""
    return Masks(masks.size, tuple(masks.counts[t] for t in frames.tolist()), masks.areas[frames])


def _draw_tracks(axes: "Axes", found: FoundTracks, drawn: Sequence[FoundTrack]) -> None:
    for row, track in enumerate(drawn):
        # In tenths, so that a run of nearly equal scores is one bar.
        shades = np.where(
            np.isnan(track.scores), UNASSIGNED, np.rint(np.nan_to_num(track.scores) * 10)
        ).astype(np.int64)
        for first, last, tenths in _runs(shades):
            strength = _LEAST_SHADE + (1 - _LEAST_SHADE) * tenths / 10
            colour = tuple(1 - strength * (1 - channel) for channel in colour_of(track.id))
            _bar(axes, row, found.frames, first, last, colour)
    labels = [f"{track.name} #{track.id}" for track in drawn]
    left_out = len(found.tracks) - len(drawn)
    beyond = f"; {left_out} shorter ones are left out" if left_out else ""
    _finish(axes, labels, f"{len(found.tracks)} tracks, the stronger the colour the higher the score{beyond}")
    means = [f"{np.nanmean(track.scores):.2f}" for track in drawn]
    _note_rows(axes, means)


def _draw_truth(axes: "Axes", found: FoundTracks, truth: _Truth) -> None:
    switches = count_switches(truth.shown)
    for row, (seen, shown) in enumerate(zip(truth.seen, truth.shown, strict=True)):
        for first, last, _ in _runs(np.where(seen, 0, UNASSIGNED)):
            _bar(axes, row, found.frames, first, last, _MISSED)
        for first, last, number in _runs(shown):
            identity = found.tracks[number].id
            _bar(axes, row, found.frames, first, last, colour_of(identity))
            if last - first >= _LABELLED * len(found.frames):
                middle = (found.frames[first] + found.frames[last]) / 2
                style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6}
                axes.text(middle, row, f"#{identity}", color=_on(identity), **style)
        there = np.flatnonzero(shown != UNASSIGNED)
        for t in there[1:][np.diff(shown[there]) != 0]:
            axes.plot([found.frames[t] - 0.5] * 2, [row - 0.46, row + 0.46], color="black", linewidth=1.6)
    covered = (truth.shown != UNASSIGNED).sum(1) / np.maximum(truth.seen.sum(1), 1)
    _finish(
        axes,
        [f"{name} {row}" for row, name in enumerate(truth.names)],
        f"{len(truth.names)} annotated instances in the colour of the track that shows them, grey where none does; "
        f"{switches.sum()} switches (black)",
    )
    _note_rows(axes, [f"{share:.0%}" for share in covered])


def _on(identity: int) -> str:
    """The colour of text on that of an identity."""
    return "black" if text_colour(id_colour(identity)) == (0, 0, 0) else "white"


def _bar(axes: "Axes", row: int, frames: NDArray[np.int64], first: int, last: int, colour: Any) -> None:
    step = int(np.diff(frames).min(initial=1 << 30)) if len(frames) > 1 else 1
    start, stop = frames[first] - 0.5, frames[last] + step - 0.5
    axes.broken_barh([(start, stop - start)], (row - 0.38, 0.76), facecolor=colour, linewidth=0)


def _finish(axes: "Axes", labels: Sequence[str], title: str) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left")
    axes.margins(x=0.005)


def _note_rows(axes: "Axes", notes: Sequence[str]) -> None:
    """What is said of each row, at its right."""
    for row, note in enumerate(notes):
        axes.annotate(
            note,
            (1, row),
            (4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
            color=PALE,
        )


def _runs(values: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(first, last, value) of the runs of equal values [T], without `UNASSIGNED`."""
    edges = np.flatnonzero(np.diff(values)) + 1
    starts, stops = [0, *edges.tolist()], [*edges.tolist(), len(values)]
    return [(a, b - 1, int(values[a])) for a, b in zip(starts, stops, strict=True) if values[a] != UNASSIGNED]
