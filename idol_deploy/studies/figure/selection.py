"""The paper's Figure 4: positive queries of annotated instances, by IoU thresholds and by optimal transport.

The frame is both frames of a training pair: its queries come from the network's pass over a pair, and the selection
from the criterion's `select`. Letters: n instances; Q queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from idol_deploy.data.loader import to_pair
from idol_deploy.data.samples import Sample
from idol_deploy.model.idol import Idol
from idol_deploy.model.pairs import forward_pairs, normalise
from idol_deploy.objective.batch import collate
from idol_deploy.objective.boxes import pairwise_iou, to_xyxy
from idol_deploy.objective.config import LossConfig
from idol_deploy.objective.criterion import Criterion
from idol_deploy.studies.figure.sheet import INK, PALE, colour_of, sheet
from idol_runtime.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Choice", "choose", "draw_selection"]

_METHODS: tuple[Literal["iou", "transport"], ...] = ("iou", "transport")
_PANEL = 3.6  # inches
_MAX_LINES = 8  # instances with their own line of counts below a panel
_LINE = 0.14  # inches, height of a line below a panel


@dataclass(frozen=True, eq=False)
class Choice:
    """The queries that a method selects for each instance.

    Attributes:
        boxes_xyxy: [Q, 4] boxes of the queries in pixels of the network input.
        positive: [n, Q] positive queries.
        negative: [n, Q] negative queries.
        astray: [n, Q] positive queries with a higher IoU with another instance.
        hard: [n, Q] negative queries that are positive for another instance, which train to separate look-alikes.
    """

    boxes_xyxy: NDArray[np.float32]
    positive: NDArray[np.bool_]
    negative: NDArray[np.bool_]
    astray: NDArray[np.bool_]
    hard: NDArray[np.bool_]

    def counted(self, instances: Sequence[int]) -> str:
        """Return the summed counts of these instances as text."""
        positive, astray, negative, hard = (
            int(mask[list(instances)].sum())
            for mask in (self.positive, self.astray, self.negative, self.hard)
        )
        false = f" ({astray} astray)" if astray else ""
        return f"{positive} positive{false}, {negative} negative ({hard} hard)"


@torch.inference_mode()
def choose(model: Idol, sample: Sample, loss: LossConfig) -> dict[str, Choice]:
    """Select queries on a sample's reference frame with both methods.

    Args:
        model: network, set to evaluation mode.
        sample: pair of frames.
        loss: configuration with the IoU thresholds.

    Returns:
        The selection by method: `iou` and `transport`.
    """
    model.eval()
    batch = collate([to_pair(sample)], model.config.preprocessing).to(next(model.parameters()).device)
    images = normalise(model, batch.images, batch.padding_mask)
    output, targets = forward_pairs(model, images, batch.padding_mask), batch.targets
    boxes = to_xyxy(output.reference_boxes.float())
    overlap = pairwise_iou(to_xyxy(targets.reference_boxes), boxes)[0][0].cpu().numpy()
    height, width = sample.reference.image.shape[:2]
    pixels = boxes[0].cpu().numpy() * np.array([width, height, width, height], np.float32)
    choices: dict[str, Choice] = {}
    for method in _METHODS:
        config = replace(loss, selection=method, embedding="contrastive")
        selected = Criterion(config, model.config.model.hidden_dim).select(output, targets)
        positive, negative = (mask[0].cpu().numpy() for mask in (selected.positive, selected.negative))
        astray = positive & (overlap < overlap.max(0))
        choices[method] = Choice(pixels, positive, negative, astray, negative & positive.any(0))
    return choices


def draw_selection(
    model: Idol, sample: Sample, path: str | Path, *, instance: int | None = None, note: str = ""
) -> Mapping[str, Choice]:
    """Draw the selections of both methods on either side of the annotated frame.

    Args:
        model: network; its configuration has the IoU thresholds.
        sample: frame as a pair with itself.
        path: picture to write.
        instance: instance with queries to draw; None (default): all instances.
        note: text on the weights, below the annotated frame.

    Returns:
        The selection by method.

    Raises:
        ConfigError: no such instance, or an unknown format.
        OutputError, MissingDependencyError: the picture cannot be drawn or written.
    """
    loss, frame = model.config.train.loss, sample.reference
    if instance is not None and not 0 <= instance < len(sample.labels):
        raise ConfigError(
            f"{sample.name} has no instance {instance}; choose one of 0 to {len(sample.labels) - 1}"
        )
    choices = choose(model, sample, loss)
    shown = list(range(len(sample.labels))) if instance is None else [instance]
    titles = {
        "iou": f"(a) IoU: above {loss.iou_positive:g} positive, below {loss.iou_negative:g} negative",
        "transport": "(c) optimal transport",
    }
    height = _PANEL * frame.image.shape[0] / frame.image.shape[1]
    lines = 1 + min(len(shown), _MAX_LINES + 1) * (len(shown) > 1)
    with sheet(path, (3 * _PANEL, height + 0.3 + _LINE * (lines + 1))) as figure:
        left, middle, right = figure.subplots(1, 3)
        _draw_annotated(middle, sample, shown)
        middle.set_title("(b) annotated", loc="left")
        _write(middle, 0, f"{sample.name}; {note}" if note else sample.name, INK)
        for axes, method in ((left, "iou"), (right, "transport")):
            _draw_choice(axes, sample, choices[method], shown)
            axes.set_title(titles[method], loc="left")
    return choices


def _draw_annotated(axes: "Axes", sample: Sample, shown: Sequence[int]) -> None:
    frame, names = sample.reference, sample.labels
    _show(axes, frame.image)
    for i in range(len(names)):
        colour = colour_of(i) if i in shown else PALE
        axes.contour(frame.masks[i], levels=[0.5], colors=[colour], linewidths=0.6)
        _box(axes, frame.boxes_xyxy[i], colour, 2.2 if i in shown else 0.8)
        # At the median of the visible pixels, since boxes of instances that occlude each other share corners.
        row, column = (float(np.median(at)) for at in np.nonzero(frame.masks[i]))
        style = {"facecolor": colour, "edgecolor": "none", "boxstyle": "square,pad=0.15"}
        axes.text(column, row, str(i), fontsize=7, va="center", ha="center", bbox=style, in_layout=False)


def _draw_choice(axes: "Axes", sample: Sample, choice: Choice, shown: Sequence[int]) -> None:
    _show(axes, sample.reference.image)
    boxes = choice.boxes_xyxy
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    negative = choice.negative[list(shown)].all(0)
    style: dict[str, Any] = {
        "color": "white",
        "markeredgecolor": PALE,
        "markeredgewidth": 0.3,
        "markersize": 3,
        "alpha": 0.6,
    }
    axes.plot(*centres[negative].T, ".", **style)
    for i in shown:
        _box(axes, sample.reference.boxes_xyxy[i], "white", 2.2, style=(0, (1, 1)))
        for query in np.flatnonzero(choice.positive[i]):
            astray = bool(choice.astray[i, query])
            _box(axes, boxes[query], colour_of(i), 1.6 if astray else 0.9, style="--" if astray else "-")
            if astray:
                axes.plot(*centres[query], "x", color=colour_of(i), markersize=6, markeredgewidth=1.6)
    _write(axes, 0, choice.counted(shown), INK)
    for line, i in enumerate(shown[:_MAX_LINES] if len(shown) > 1 else (), 1):
        _write(axes, line, f"{i}: {choice.counted([i])}", colour_of(i))
    if len(shown) > _MAX_LINES:
        _write(axes, _MAX_LINES + 1, f"and {len(shown) - _MAX_LINES} more", PALE)


def _show(axes: "Axes", image: NDArray[np.uint8]) -> None:
    axes.imshow(image, interpolation="bilinear")
    axes.set_axis_off()
    axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5), autoscale_on=False)


def _box(
    axes: "Axes",
    corners: NDArray[np.float32],  # [4] xyxy
    colour: Any,
    width: float,
    style: Any = "-",
) -> None:
    from matplotlib.patches import Rectangle

    left, top, right, bottom = (float(value) for value in corners)
    line: dict[str, Any] = {"fill": False, "edgecolor": colour, "linewidth": width, "linestyle": style}
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, **line))


def _write(axes: "Axes", line: int, text: str, colour: Any) -> None:
    """Write a line of text below a panel."""
    where: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(text, (0, 0), (0, -4 - 72 * _LINE * line), va="top", fontsize=7, color=colour, **where)
