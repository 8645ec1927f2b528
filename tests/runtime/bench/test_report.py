"""Tests of the tables of a report."""

from typing import Any

from idol_runtime.bench.report import as_markdown, as_text, burst_tables, facts, stage_table, summary_table


def test_the_summary_compares_with_the_first_row(report: dict[str, Any]) -> None:
    head, eager, fast, _ = summary_table(report)
    assert head[3] == "times eager"
    assert eager[3] == "1.00 (1.00 to 1.00)"
    assert fast[1:4] == ["50.0", "77.0", "4.00 (2.80 to 4.80)"]
    assert fast[-3:] == ["1e-06", "25%", "50%"]


def test_stages_stand_in_the_order_of_a_frame(report: dict[str, Any]) -> None:
    head, eager, *_ = stage_table(report, "p50")
    assert head == ["p50, ms", "preprocess", "network", "postprocess", "frame age"]
    assert eager == ["eager", "1.00", "200.00", "2.00", "203.00"]


def test_a_stage_that_a_row_lacks(report: dict[str, Any]) -> None:
    del report["rows"][1]["stages_ms"]["preprocess"]
    assert stage_table(report, "p50")[2][1] == "-"


def test_what_is_wrong_or_left_out_is_told(report: dict[str, Any]) -> None:
    for text in (as_text(report), as_markdown(report)):
        assert "warning: wrong fails the golden check with an error of 9e-01" in text
        assert "fast & right fails" not in text
        assert "left out absent: it is not installed" in text
        assert "10.0 GFLOP and 1.00 GB per frame" in text
        assert "cpu_mhz: 2000 (1000 to 3000)" in text


def test_the_row_that_run_uses_has_a_star(report: dict[str, Any]) -> None:
    report["rows"][1]["used"], report["used_why"] = True, "running fast\nnot running faster: build it"
    for text in (as_text(report), as_markdown(report)):
        assert "fast & right *  " in text or "| fast & right * |" in text
        assert "eager *" not in text
        assert "* running fast\n\n* not running faster: build it" in text


def test_columns_align_and_nothing_is_lost(report: dict[str, Any]) -> None:
    report["rows"][1]["row"] = "onnxruntime, portable"
    *tables, _ = (block.splitlines() for block in as_text(report).split("\n\n")[1:5])
    for lines in tables:
        assert len({len(line) for line in lines}) == 1
        assert len(lines[0]) <= 125, "as wide as a terminal may be"
        assert [line.split("  ")[0] for line in lines[1:]] == [
            "eager",
            "onnxruntime, portable",
            "wrong (wrong)",
        ]
    for heading in summary_table(report)[0]:
        assert heading in tables[0][0] + tables[1][0]


def burst(**values: Any) -> dict[str, Any]:
    measured = {"device_mib": 512.4, "watts": 250.0, "joules_per_frame": 2.0833, "gpu_mhz": 1980.0}
    sources = {"memory_source": "process", "power_source": "gpu_energy_j"}
    return {**measured, "throttled": [], **sources, "missing": {}} | values


def test_power_and_memory_stand_in_a_table_of_their_own(report: dict[str, Any]) -> None:
    missing = dict.fromkeys(("watts", "joules_per_frame"), "NVML: Not Supported")
    report["idle_w"] = 62.0
    report["rows"][0]["burst"] = burst(throttled=["power cap", "temperature"])
    report["rows"][1]["burst"] = burst(
        watts=None, joules_per_frame=None, power_source=None, missing=missing, memory_source="increase"
    )
    (table,) = burst_tables(report)
    assert table == [
        ["", "device MiB", "W", "J/frame", "GPU MHz", "throttled"],
        ["eager", "512", "250.0", "2.08", "1980", "power cap, temperature"],
        ["fast & right", "512", "-", "-", "1980", "no"],
    ]
    for text in (as_text(report), as_markdown(report)):
        assert (
            "J/frame: gpu_energy_j during whole frames of one row alone, with the idle power of 62.0 W"
            in text
        )
        assert text.count("no J/frame: NVML: Not Supported") == 1
        assert "device MiB: increase of the device's used memory" in text


def test_the_device_is_named(report: dict[str, Any]) -> None:
    report["machine"] |= {"gpu": "NVIDIA H100", "driver": "580.95", "power_limit_w": 700.0}
    assert "; NVIDIA H100, driver 580.95, power limit 700 W, a processor, 2 cores" in facts(report)
    report["machine"] = {
        "board": "Jetson",
        "power_mode": "2 (15W)",
        "cpu": "aarch64",
        "cores": 6,
        "date": "-",
    }
    assert "; Jetson, power mode 2 (15W), aarch64, 6 cores" in facts(report)


def test_one_thread_and_several(report: dict[str, Any]) -> None:
    assert "2 threads;" in facts(report)
    assert "1 thread;" in facts(report | {"threads": 1})
    assert "default threads;" in facts(report | {"threads": None})


def test_markdown_tables_are_rectangular(report: dict[str, Any]) -> None:
    for block in as_markdown(report).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
