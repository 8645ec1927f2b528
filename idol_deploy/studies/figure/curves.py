"""Training curves: what `log.jsonl` of one or several runs says, run beside run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_deploy.studies.figure.sheet import figure_target, sheet
from idol_runtime.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Curve", "RunLog", "draw_curves", "read_log", "smoothed"]

_COLUMNS = 4
_PANEL = (2.9, 1.9)  # inches
_SMOOTH_SHARE = 50  # by default a line is the mean over this part of its run


@dataclass(frozen=True, eq=False)
class Curve:
    """One number over a run.

    Attributes:
        iterations: [k] where it was measured.
        values: [k]; nan where there was none.
    """

    iterations: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class RunLog:
    """What a run told.

    Attributes:
        name: of the run, for the legend.
        curves: by the name of their panel, in order.
    """

    name: str
    curves: Mapping[str, Curve] = field(default_factory=dict)


class _Entry(msgspec.Struct):
    iteration: int
    loss: float | None = None
    losses: dict[str, float] = {}
    lr: float | None = None
    grad_norm: float | None = None
    matched: float | None = None
    items: float | None = None
    seconds: dict[str, float] = {}
    scores: dict[str, float | None] = {}


def read_log(path: Path) -> RunLog:
    """Read the log of a run.

    Args:
        path: `log.jsonl`, or the folder that holds it. A last line that is still being written is left out.

    Raises:
        DataError: no such file, without an iteration, or not the log of a training run.
    """
    file = path / "log.jsonl" if path.is_dir() else path
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read {file}: {error.strerror}; give a training run's folder or its log.jsonl"
        ) from error
    try:
        entries = msgspec.json.Decoder(_Entry).decode_lines(content[: content.rfind(b"\n") + 1])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is no log of a training run: {error}; give its log.jsonl") from error
    points: dict[str, list[tuple[int, float]]] = {}
    for entry in entries:
        for name, value in _values(entry):
            points.setdefault(name, []).append((entry.iteration, math.nan if value is None else value))
    if not points:
        raise DataError(f"{file} has no iteration yet; wait for the run's first")
    curves = {name: _curve(found) for name, found in points.items()}
    return RunLog(file.resolve().parent.name, {name: curves[name] for name in _in_order(curves)})


def smoothed(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The mean of the `window` values around each, of fewer at the ends; values that are nan are left out."""
    there = np.isfinite(values)
    sums, counts = (
        np.concatenate([[0.0], np.cumsum(array)]) for array in (np.where(there, values, 0.0), there)
    )
    at = np.arange(len(values))
    first, last = np.maximum(at - window // 2, 0), np.minimum(at + (window + 1) // 2, len(values))
    counted = counts[last] - counts[first]
    mean: NDArray[np.float64] = np.full(len(values), np.nan)
    np.divide(sums[last] - sums[first], counted, out=mean, where=counted > 0)
    return mean


def draw_curves(logs: Sequence[Path], path: str | Path, smooth: int | None = None) -> tuple[str, ...]:
    """Draw the logs of runs, a panel for each number and a colour for each run.

    Args:
        logs: files or folders, as `read_log` takes them.
        path: the picture.
        smooth: iterations whose mean the strong line is; None: a fiftieth of each run. The faint line is every value.

    Returns:
        The names of the runs, as in the legend.

    Raises:
        DataError: a log that cannot be read or holds nothing.
        ConfigError, OutputError, MissingDependencyError: the picture cannot be drawn or written there.
    """
    figure_target(path)
    runs = _told_apart([read_log(log) for log in logs], logs)
    panels = _in_order({name: None for run in runs for name in run.curves})
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with sheet(path, (_PANEL[0] * columns, _PANEL[1] * rows + 0.35)) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, name in zip(grid.flat, panels, strict=False):
            for number, run in enumerate(runs):
                if name in run.curves:
                    _draw_curve(axes, name, run.curves[name], f"C{number}", smooth)
            _scale(axes, name)
            axes.set_title(_TITLES.get(name, name), loc="left")
            axes.grid(True)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes in grid[-1]:
            axes.set_xlabel("iteration")
        handles = [grid[0, 0].plot([], [], f"C{number}")[0] for number in range(len(runs))]
        figure.legend(handles, [run.name for run in runs], loc="outside upper left", ncols=len(runs))
    return tuple(run.name for run in runs)


_LOSSES = ("ce", "bbox", "giou", "mask", "dice", "reid", "reid_aux", "id")
_SCORES = ("AP", "AP50", "AP75", "AR1", "AR10")
_PANELS = (
    "loss",
    *(f"loss_{kind}" for kind in _LOSSES),
    *("grad_norm", "lr", "matched", "items", "seconds", "waiting"),
    *_SCORES,
)
_TITLES = {
    "loss": "loss: weighted sum over all layers",
    "grad_norm": "gradient norm before clipping",
    "lr": "learning rate",
    "matched": "queries matched",
    "items": "embeddings compared",
    "seconds": "seconds per iteration",
    "waiting": "share spent waiting for data",
    **{f"loss_{kind}": f"loss_{kind}, last layer" for kind in _LOSSES},
    **{name: f"{name} of the videos held out" for name in _SCORES},
}
_FALLING = ("loss", "grad_norm", "seconds")
_FAR = 6.0


def _values(entry: _Entry) -> list[tuple[str, float | None]]:
    """What an entry says, by panel; of the parts of the loss, those of the last layer."""
    found: list[tuple[str, float | None]] = [
        (name, entry.scores[name]) for name in _SCORES if name in entry.scores
    ]
    if entry.loss is None:
        return found
    found += [(name, getattr(entry, name)) for name in ("loss", "grad_norm", "lr", "matched", "items")]
    found += [(name, value) for name, value in entry.losses.items() if not name[-1].isdigit()]
    seconds = sum(entry.seconds.values())
    if seconds > 0:
        found += [("seconds", seconds), ("waiting", entry.seconds.get("data", 0.0) / seconds)]
    return found


def _in_order(names: Mapping[str, Any]) -> list[str]:
    """The panels of these names; one that is not known here, such as a new loss, stands last."""
    return [name for name in _PANELS if name in names] + [name for name in names if name not in _PANELS]


def _curve(points: Sequence[tuple[int, float]]) -> Curve:
    iterations, values = zip(*points, strict=True)
    return Curve(np.array(iterations, np.int64), np.array(values, np.float64))


def _told_apart(runs: Sequence[RunLog], logs: Sequence[Path]) -> list[RunLog]:
    """Runs whose folders have the same name are called by their path."""
    names = [run.name for run in runs]
    return [
        RunLog(name if names.count(name) == 1 else str(log), run.curves)
        for name, run, log in zip(names, runs, logs, strict=True)
    ]


def _draw_curve(axes: "Axes", name: str, curve: Curve, colour: str, smooth: int | None) -> None:
    if name in _SCORES:
        axes.plot(curve.iterations, curve.values, color=colour, marker="o", markersize=3)
    elif name == "lr":
        axes.plot(curve.iterations, curve.values, color=colour)
    else:
        window = smooth or max(len(curve.values) // _SMOOTH_SHARE, 1)
        axes.plot(curve.iterations, curve.values, color=colour, alpha=0.25, linewidth=0.5, zorder=1.5)
        axes.plot(curve.iterations, smoothed(curve.values, window), color=colour)


def _scale(axes: "Axes", name: str) -> None:
    """Logarithmic where a loss, norm or time falls far, with ticks that are read at a glance."""
    from matplotlib.ticker import LogLocator, NullLocator

    drawn = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axes.get_lines()])
    drawn = drawn[np.isfinite(drawn)]
    if name.startswith(_FALLING) and len(drawn) and 0 < _FAR * drawn.min() < drawn.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
