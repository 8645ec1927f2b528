"""Matplotlib figures without windows or global state, written as PNG, SVG or PDF.

    with sheet("tracks.svg", (8, 5)) as figure:
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

# No time or program name in the metadata, so that equal figures are equal files.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_STYLE: dict[str, Any] = {
    "font.size": 8,
    "text.parse_math": False,  # names of classes and folders may contain $
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
    """Check that a figure can be drawn and written, before the work for it.

    Raises:
        ConfigError: the suffix is no known format.
        OutputError: the file cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in _METADATA:
        raise ConfigError(f"unknown figure format: {target}; use the suffix {', '.join(_METADATA)}")
    import_optional("matplotlib", "matplotlib", "figure", "drawing figures")
    return writable_target(target)


@contextlib.contextmanager
def sheet(path: str | Path, size: tuple[float, float]) -> Iterator["Figure"]:
    """Yield a figure of `size` (width, height) in inches, and write it on exit without an error.

    Raises:
        ConfigError, OutputError, MissingDependencyError: as `figure_target`.
    """
    target = figure_target(path)
    matplotlib = import_optional("matplotlib", "matplotlib", "figure", "drawing figures")
    figures = import_optional("matplotlib.figure", "matplotlib", "figure", "drawing figures")
    with matplotlib.rc_context(_STYLE):
        # Not through pyplot, which looks for a screen.
        figure: Figure = figures.Figure(figsize=size, layout="constrained")
        yield figure
        suffix = target.suffix.lower()
        with replacing(target) as temporary:
            # Cropped to the content: panels keep the shape of their frames, which leaves empty margins.
            figure.savefig(
                temporary, format=suffix[1:], metadata=_METADATA[suffix], bbox_inches="tight", pad_inches=0.06
            )


def colour_of(identity: int) -> tuple[float, float, float]:
    """Return the colour of an identity in all pictures and videos, as RGB in 0..1."""
    red, green, blue = id_colour(identity)
    return red / 255, green / 255, blue / 255
