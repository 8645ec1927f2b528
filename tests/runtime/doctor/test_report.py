"""The report: what `run` would choose, and the text."""

from __future__ import annotations

import json

from idol_runtime.doctor.probe import Finding
from idol_runtime.doctor.report import make_report
from tests.runtime.doctor.test_advice import ALL, COMPLETE

UNKNOWN = dict.fromkeys(ALL, Finding("unknown", "no answer within the time limit"))


def test_without_a_bundle() -> None:
    report = make_report(COMPLETE)
    assert report.can_run
    assert report.run[0].startswith("the fastest of OpenVINO (cpu), ONNX Runtime (cpu); ")
    assert report.as_text().endswith("\n\nnothing is missing")


def test_without_an_answer() -> None:
    report = make_report(UNKNOWN)
    assert not report.can_run
    assert report.run == ["nothing: no inference engine can be used"]
    assert (
        "? tensorrt             could not be found out: no answer within the time limit" in report.as_text()
    )


def test_with_a_bundle() -> None:
    for choice, first in (
        (["running bf16 on OpenVINO (cpu); remembered from 2026-11-28", "a hint"], "running bf16"),
        ([], "the fastest graph, timed at the first start; bf16 passes"),
    ):
        details = {"path": "~/my model.idol", "choice": choice, "candidates": []}
        report = make_report({**COMPLETE, "bundle": Finding("present", "bf16 passes", details)})
        assert report.can_run
        assert report.run[0].startswith(first)
        assert report.run[-1] == "idol-deploy run ~/'my model.idol' --explain times all graphs"
    for finding in (Finding("faulty", "no graph runs here: why"), Finding("unknown", "no answer")):
        report = make_report({**COMPLETE, "bundle": finding})
        assert not report.can_run
        assert report.run[0].startswith("nothing: ")
        assert json.loads(report.as_json())["can_run"] is False


def test_needed_things_come_first() -> None:
    absent = Finding("missing", "not installed")
    text = make_report({**COMPLETE, "openvino": absent, "onnxruntime": absent}).as_text()
    assert text.index("needed:\n  ONNX Runtime: ") < text.index("      pip install 'idol-deploy[cpu]'")
    assert "optional:" not in text
