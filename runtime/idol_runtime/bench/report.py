"""The tables of a benchmark report, for a terminal and in Markdown. docs/benchmark.md explains the columns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from idol_runtime.bench.worker import STAGES

__all__ = [
    "as_markdown",
    "as_text",
    "burst_tables",
    "facts",
    "label",
    "notes",
    "stage_table",
    "summary_table",
]

# Key in a row's burst and format, by heading.
_BURST_COLUMNS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "device MiB": ("device_mib", "{:.0f}".format),
    "W": ("watts", "{:.1f}".format),
    "J/frame": ("joules_per_frame", "{:.3g}".format),
    "GPU MHz": ("gpu_mhz", "{:.0f}".format),
    "throttled": ("throttled", lambda reasons: ", ".join(reasons) or "no"),
}

Table = Sequence[Sequence[str]]  # a row of headings, then rows of cells
_SPEED = 6  # number of columns of the summary about speed


def as_text(report: Mapping[str, Any]) -> str:
    """Return the report for a terminal: the summary in two narrow tables, the medians by stage, and notes."""
    summary = summary_table(report)
    speed: Table = [row[:_SPEED] for row in summary]
    rest: Table = [[row[0], *row[_SPEED:]] for row in summary]
    tables = (speed, rest, *burst_tables(report), stage_table(report, "p50"))
    parts = [facts(report), *map(_aligned, tables), *notes(report)]
    return "\n\n".join(parts)


def as_markdown(report: Mapping[str, Any]) -> str:
    """Return the report in Markdown: the summary, the statistics of every stage, and notes."""
    parts = ["# Latency", facts(report), *map(_piped, (summary_table(report), *burst_tables(report)))]
    for value in ("p50", "p90", "p95", "p99", "mean"):
        parts += [f"## {value} by stage, ms", _piped(stage_table(report, value))]
    parts += notes(report)
    return "\n\n".join(parts) + "\n"


def summary_table(report: Mapping[str, Any]) -> Table:
    """Return a table with one row per benchmark row; ratios are against the first row."""
    rows = [_summary(row, report["rows"][0]["row"]) for row in report["rows"]]
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def _summary(row: Mapping[str, Any], first: str) -> dict[str, str]:
    """Return the cells of a row by their headings."""
    network, ratio, share = row["stages_ms"]["network"], row["faster_network"], row["roofline_share"]
    return {
        "row": label(row),
        "network p50 ms": f"{network['p50']:.1f}",
        "p95": f"{network['p95']:.1f}",
        f"times {first}": f"{ratio['median']:.2f} ({ratio['p10']:.2f} to {ratio['p90']:.2f})",
        "frame p50 ms": f"{row['age_ms']['p50']:.1f}",
        "frames/s": f"{row['frames_per_s']:.1f}",
        "start s": f"{row['start_s']:.1f}",
        "first frame s": f"{row['first_frame_s']:.2f}",
        "peak MiB": str(row["peak_mib"] or "-"),
        "id agreement": "-" if row["id_agreement"] is None else f"{row['id_agreement']:.1%}",
        "golden error": f"{row['golden_error']:.0e}",
        "tolerance share": "-" if row["parity"] is None else f"{row['parity']:.0%}",
        "roofline share": "-" if share is None else f"{share:.0%}",
    }


def burst_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return a table of memory, power and clock of every row, or no table if nothing of it was measured."""
    rows = [(label(row), row["burst"]) for row in report["rows"] if row.get("burst")]
    table = [["", *_BURST_COLUMNS]]
    for name, burst in rows:
        cells = ["-" if burst[key] is None else form(burst[key]) for key, form in _BURST_COLUMNS.values()]
        table.append([name, *cells])
    return [table] if rows else []


def stage_table(report: Mapping[str, Any], value: str) -> Table:
    """Return a table of one statistic, such as `p95`, of every stage in milliseconds."""
    rows = report["rows"]
    stages = [stage for stage in STAGES if any(stage in row["stages_ms"] for row in rows)]
    table = [[f"{value}, ms", *stages, "frame age"]]
    for row in rows:
        cells = (f"{row['stages_ms'][s][value]:.2f}" if s in row["stages_ms"] else "-" for s in stages)
        table.append([label(row), *cells, f"{row['age_ms'][value]:.2f}"])
    return table


def label(row: Mapping[str, Any]) -> str:
    """Return the name of a row, marked if it fails the golden check, or with a star if `run` uses it."""
    return f"{row['row']}{' (wrong)' * row['wrong']}{' *' * row.get('used', False)}"


def facts(report: Mapping[str, Any]) -> str:
    """Return one line about the bundle, the frames and the machine."""
    machine, bundle, threads = report["machine"], report["bundle"], report["threads"]
    limit = f"{threads} thread{'s' * (threads > 1)}" if threads else "default threads"
    size = "x".join(map(str, bundle["network_size"]))
    return (
        f"{bundle['preset']} at {size}, {report['frames']} frames of {report['source']}, interleaved, {limit}; "
        f"{_device(machine)}{machine['cpu']}, {machine['cores']} cores, {machine['date']}"
    )


def _device(machine: Mapping[str, Any]) -> str:
    """Return the GPU or Jetson with driver, power limit and power mode, where known, and a comma."""
    name = machine.get("gpu") or machine.get("board")
    forms = {"driver": "driver {}", "power_limit_w": "power limit {:g} W", "power_mode": "power mode {}"}
    details = [form.format(machine[key]) for key, form in forms.items() if key in machine]
    return "".join(f"{part}, " for part in (name, *details) if part)


def notes(report: Mapping[str, Any]) -> list[str]:
    """Return the notes below the tables: wrong and missing rows, `run`'s choice, the roofline, and clocks."""
    lines = [
        f"warning: {row['row']} fails the golden check with an error of {row['golden_error']:.0e}: its times are those "
        "of another network"
        for row in report["rows"]
        if row["wrong"]
    ]
    lines += [f"left out {entry['row']}: {entry['why']}" for entry in report["left_out"]]
    lines += [f"* {line}" for line in report.get("used_why", "").splitlines()]
    lines += _burst_notes(report)
    roofline = report["roofline"]
    if "why_not" in roofline:
        lines.append(f"no roofline: {roofline['why_not']}")
    else:
        work = roofline["work"]
        lines.append(
            f"roofline: {work['flops'] / 1e9:.1f} GFLOP and {work['bytes'] / 1e9:.2f} GB per frame take at least "
            f"{roofline['floor_ms']:.1f} ms in fp32, at the measured {roofline['peak_gflops']:.0f} GFLOP/s and "
            f"{roofline['peak_gb_s']:.1f} GB/s"
        )
    for name, value in report["clocks"].items():
        lines.append(f"{name}: {value['median']:g} ({value['min']:g} to {value['max']:g})")
    return lines


def _burst_notes(report: Mapping[str, Any]) -> list[str]:
    """Return the source of the power, the idle power, and the reasons of missing values, each once."""
    bursts = [row["burst"] for row in report["rows"] if row.get("burst")]
    idle = f" of {report['idle_w']:.1f} W" if report.get("idle_w") else ""
    lines = [
        f"W and J/frame: {source} during whole frames of one row alone, with the idle power{idle}"
        for source in dict.fromkeys(burst["power_source"] for burst in bursts)
        if source is not None
    ]
    if any(burst["memory_source"] == "increase" for burst in bursts):
        lines.append("device MiB: increase of the device's used memory, because NVML lists no processes here")
    headings = {key: heading for heading, (key, _) in _BURST_COLUMNS.items()}
    missing = (item for burst in bursts for item in burst["missing"].items())
    return lines + [f"no {headings[key]}: {why}" for key, why in dict.fromkeys(missing)]


def _aligned(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = (
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in table
    )
    return "\n".join(map("  ".join, lines))


def _piped(table: Table) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|" + " --- |" * len(table[0]), *lines[1:]])
