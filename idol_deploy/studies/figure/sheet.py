"""What figures are drawn on: matplotlib without windows or global state, written as PNG, SVG or PDF.

    with sheet("curves.svg", (8, 5)) as figure:
        figure.add_subplot().plot([1, 2])

Text and lines stay vectors in SVG and PDF. Sizes are in inches, at 72 points each.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idol_runtime.errors import ConfigError
from idol_runtime.files import replacing, writable_target
from idol_runtime.optional import import_optional
from idol_runtime.sinks.palette import id_colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["INK", "PALE", "colour_of", "figure_target", "sheet"]

INK = "#222222"
PALE = "#8a8a8a"

# What each format says of the time and of its maker: nothing, so that the same figure is the same file.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_STYLE: dict[str, Any] = {
    "font.size": 8,
    "text.parse_math": False,  # a class or folder may be called a$b
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": PALE,
    "axes.linewidth": 0.6,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": PALE,
    "ytick.color": PALE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "savefig.dpi": 150,
    "svg.fonttype": "none",
    "svg.hashsalt": "idol-deploy",
}


def figure_target(path: str | Path) -> Path:
    """Check that a figure can be drawn and written at `path`, before any work is done for it.

    Raises:
        ConfigError: its name ends in none of the formats.
        OutputError: it cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in _METADATA:
        raise ConfigError(f"cannot draw {target}: a figure's name ends in {', '.join(_METADATA)}; rename it")
    import_optional("matplotlib", "matplotlib", "figure", "drawing figures")
    return writable_target(target)


@contextlib.contextmanager
def sheet(path: str | Path, size: tuple[float, float]) -> Iterator["Figure"]:
    """A figure of `size` (width, height) to draw on; left without an error, it is written.

    Raises:
        ConfigError, OutputError, MissingDependencyError: as `figure_target`.
    """
    target = figure_target(path)
    matplotlib = import_optional("matplotlib", "matplotlib", "figure", "drawing figures")
    figures = import_optional("matplotlib.figure", "matplotlib", "figure", "drawing figures")
    with matplotlib.rc_context(_STYLE):
        # Not through pyplot, which would look for a screen.
        figure: Figure = figures.Figure(figsize=size, layout="constrained")
        yield figure
        suffix = target.suffix.lower()
        with replacing(target) as temporary:
            # Cut to what is drawn: panels keep the shape of their frames, which leaves room beside them.
            figure.savefig(
                temporary, format=suffix[1:], metadata=_METADATA[suffix], bbox_inches="tight", pad_inches=0.06
            )


def colour_of(identity: int) -> tuple[float, float, float]:
    """The colour of an id in every picture and video, as matplotlib takes it."""
    red, green, blue = id_colour(identity)
    return red / 255, green / 255, blue / 255
