"""A benchmark's report as tables: for a terminal, and as Markdown. What they show is in docs/benchmark.md."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["as_markdown", "as_text", "facts", "label", "notes", "stage_table", "summary_table"]

Table = Sequence[Sequence[str]]  # a row of headings, then rows of cells
_SPEED = 6  # so many columns of the summary are about speed


def as_text(report: Mapping[str, Any]) -> str:
    """For a terminal: the summary in two tables, which would be too wide in one, medians by stage, and notes."""
    summary = summary_table(report)
    speed: Table = [row[:_SPEED] for row in summary]
    rest: Table = [[row[0], *row[_SPEED:]] for row in summary]
    parts = [facts(report), *map(_aligned, (speed, rest, stage_table(report, "p50"))), *notes(report)]
    return "\n\n".join(parts)


def as_markdown(report: Mapping[str, Any]) -> str:
    """The summary, every percentile of every stage, and what was left out."""
    parts = ["# Latency", facts(report), _piped(summary_table(report))]
    for value in ("p50", "p90", "p95", "p99", "mean"):
        parts += [f"## {value} by stage, ms", _piped(stage_table(report, value))]
    parts += notes(report)
    return "\n\n".join(parts) + "\n"


def summary_table(report: Mapping[str, Any]) -> Table:
    """A row for each way to run the network, the first of which the others are compared with."""
    first = report["rows"][0]["row"]
    head = [
        "row",
        "network p50 ms",
        "p95",
        f"times {first}",
        "frame p50 ms",
        "frames/s",
        "start s",
        "first frame s",
        "peak MiB",
        "ids as fp32",
        "golden error",
        "share of tolerance",
        "of the roofline",
    ]
    return [head, *(_summary(row) for row in report["rows"])]


def _summary(row: Mapping[str, Any]) -> list[str]:
    network, ratio, share = row["stages_ms"]["network"], row["faster_network"], row["roofline_share"]
    return [
        label(row),
        f"{network['p50']:.1f}",
        f"{network['p95']:.1f}",
        f"{ratio['median']:.2f} ({ratio['p10']:.2f} to {ratio['p90']:.2f})",
        f"{row['age_ms']['p50']:.1f}",
        f"{row['frames_per_s']:.1f}",
        f"{row['start_s']:.1f}",
        f"{row['first_frame_s']:.2f}",
        str(row["peak_mib"] or "-"),
        "-" if row["id_agreement"] is None else f"{row['id_agreement']:.1%}",
        f"{row['golden_error']:.0e}",
        "-" if row["parity"] is None else f"{row['parity']:.0%}",
        "-" if share is None else f"{share:.0%}",
    ]


def stage_table(report: Mapping[str, Any], value: str) -> Table:
    """One value, such as `p95`, of every stage in milliseconds."""
    found = list(dict.fromkeys(stage for row in report["rows"] for stage in row["stages_ms"]))
    order = ("decode", "preprocess", "copy", "network", "postprocess", "association", "draw")
    stages = [stage for stage in order if stage in found]
    rows = [
        [
            label(row),
            *(f"{row['stages_ms'][s][value]:.2f}" if s in row["stages_ms"] else "-" for s in stages),
            f"{row['age_ms'][value]:.2f}",
        ]
        for row in report["rows"]
    ]
    return [[f"{value}, ms", *stages, "frame age"], *rows]


def label(row: Mapping[str, Any]) -> str:
    """What a row is called, with a word to one whose times mean nothing."""
    return f"{row['row']} (wrong)" if row["wrong"] else str(row["row"])


def facts(report: Mapping[str, Any]) -> str:
    """What was measured, and where, in one line."""
    machine, bundle = report["machine"], report["bundle"]
    threads = (
        f"{report['threads']} thread{'s' * (report['threads'] > 1)}"
        if report["threads"]
        else "threads as each likes"
    )
    size = "x".join(map(str, bundle["network_size"]))
    return (
        f"{bundle['preset']} at {size}, {report['frames']} frames of {report['source']}, rows in turns, {threads}; "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['date']}"
    )


def notes(report: Mapping[str, Any]) -> list[str]:
    """What the tables do not say: rows that are wrong or were left out and why, the roofline, clocks."""
    told = [
        f"{row['row']} ANSWERS WRONGLY, off by {row['golden_error']:.0e} on the golden frame: its times are those of "
        "another network"
        for row in report["rows"]
        if row["wrong"]
    ]
    told += [f"left out {entry['row']}: {entry['why']}" for entry in report["left_out"]]
    roofline = report["roofline"]
    if "why_not" in roofline:
        told.append(f"no roofline: {roofline['why_not']}")
    else:
        work = roofline["work"]
        told.append(
            f"roofline: {work['flops'] / 1e9:.1f} GFLOP and {work['bytes'] / 1e9:.2f} GB a frame, "
            f"at {roofline['peak_gflops']:.0f} GFLOP/s and {roofline['peak_gb_s']:.1f} GB/s measured here, take "
            f"{roofline['floor_ms']:.1f} ms in fp32"
        )
    for name, value in report["clocks"].items():
        told.append(f"{name}: {value['median']:g} ({value['min']:g} to {value['max']:g})")
    return told


def _aligned(table: Table) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [
            f"{row[0]:<{widths[0]}}",
            *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _piped(table: Table) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|" + " --- |" * len(table[0]), *lines[1:]])
