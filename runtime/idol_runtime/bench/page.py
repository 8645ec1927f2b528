"""A benchmark report as one self-contained HTML page with tables and SVG plots."""

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from idol_runtime.bench.report import Table, burst_tables, facts, label, notes, stage_table, summary_table
from idol_runtime.bench.worker import STAGES
from idol_runtime.optional import import_optional

__all__ = ["as_page"]

# Okabe and Ito's palette for colour-blind readers; the network has the darkest colour.
_COLOURS = dict(
    zip(STAGES, ("#56B4E9", "#009E73", "#F0E442", "#0072B2", "#E69F00", "#D55E00", "#CC79A7"), strict=True)
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; }
figure { margin: 1.5rem 0; } figure svg { width: 100%; height: auto; }
figcaption, .facts { color: #555; font-size: 13px; } .scroll { overflow-x: auto; margin-bottom: 1.5rem; }
"""


def as_page(report: Mapping[str, Any]) -> str:
    """Return the page.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    import_optional("matplotlib", "matplotlib", "bench", "drawing a benchmark")
    title = f"Latency of {report['bundle']['preset']}"
    figures = (
        (_stages(report), "Time of each stage of a frame (medians)."),
        (_spread(report), "Time of the network: every frame, and the median. Rows ran interleaved."),
        (_ratios(report), "Speed relative to the first row, by frame: median, 10th to 90th percentile."),
    )
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="facts">{html.escape(facts(report))}</p>',
        *map(_table, (summary_table(report), *burst_tables(report))),
        *(f'<p class="facts">{html.escape(note)}</p>' for note in notes(report)),
        *(f"<figure>{svg}<figcaption>{html.escape(text)}</figcaption></figure>" for svg, text in figures),
        *(_table(stage_table(report, value)) for value in ("p50", "p90", "p95", "p99", "mean")),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table[0])
    rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in table[1:])
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(rows: int) -> tuple[Any, Any]:
    """Return a figure and its axes, with a height for the number of rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 1.1 + 0.42 * rows), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    return figure, axes


def _stages(report: Mapping[str, Any]) -> str:
    rows = report["rows"]
    figure, axes = _figure(len(rows) + 1)
    left = np.zeros(len(rows))
    for stage in STAGES:
        times = np.array([row["stages_ms"].get(stage, {"p50": 0.0})["p50"] for row in rows])
        if times.any():
            axes.barh(range(len(rows)), times, left=left, height=0.6, color=_COLOURS[stage], label=stage)
            left += times
    for y, end in enumerate(left):
        _label(axes, float(end), y, f"{end:.1f}")
    axes.margins(x=0.08)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(STAGES), frameon=False, fontsize=9)
    return _svg(figure, axes, rows, "ms")


def _spread(report: Mapping[str, Any]) -> str:
    rows, rng = report["rows"], np.random.default_rng(0)
    figure, axes = _figure(len(rows))
    for y, row in enumerate(rows):
        times = np.array(row["network_ms"])
        jitter = rng.uniform(-0.2, 0.2, len(times))
        axes.scatter(times, y + jitter, s=14, color=_COLOURS["network"], alpha=0.45, lw=0)
        axes.vlines(row["stages_ms"]["network"]["p50"], y - 0.35, y + 0.35, color="#D55E00", lw=2)
    axes.set_xlim(left=0)
    return _svg(figure, axes, rows, "ms")


def _ratios(report: Mapping[str, Any]) -> str:
    rows = report["rows"]
    figure, axes = _figure(len(rows))
    for y, row in enumerate(rows):
        ratio = row["faster_network"]
        axes.barh(y, ratio["median"], height=0.55, color="#56B4E9")
        axes.plot([ratio["p10"], ratio["p90"]], [y, y], color="#1a1a1a", lw=1.5)
        _label(axes, max(ratio["p90"], ratio["median"]), y, f"{ratio['median']:.2f}")
    axes.axvline(1, color="#888888", lw=0.8, zorder=0)
    axes.margins(x=0.1)
    return _svg(figure, axes, rows, f"times {rows[0]['row']}, network alone")


def _label(axes: Any, x: float, y: float, text: str) -> None:
    """Write a text beside the end of a bar."""
    axes.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)


def _svg(figure: Any, axes: Any, rows: Sequence[Mapping[str, Any]], unit: str) -> str:
    """Label both axes and return the figure's `<svg>` element without the XML header; text stays text."""
    import matplotlib as mpl

    axes.set_yticks(range(len(rows)), [label(row) for row in rows])
    axes.set_xlabel(unit)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
