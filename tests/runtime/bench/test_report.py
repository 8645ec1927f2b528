"""Tests of the tables of a report."""

from typing import Any

from idol_runtime.bench.report import as_markdown, as_text, facts, stage_table, summary_table


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


def test_one_thread_and_several(report: dict[str, Any]) -> None:
    assert "2 threads;" in facts(report)
    assert "1 thread;" in facts(report | {"threads": 1})
    assert "default threads;" in facts(report | {"threads": None})


def test_markdown_tables_are_rectangular(report: dict[str, Any]) -> None:
    for block in as_markdown(report).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
