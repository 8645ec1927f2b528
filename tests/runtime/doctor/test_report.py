"""The report: what `run` would choose, the commands, and the text."""

from __future__ import annotations

import pytest

from idol_runtime.doctor.probe import GROUPS, Finding
from idol_runtime.doctor.report import as_text, make_report

UNKNOWN = Finding("unknown", "no answer within the time limit")
OPENVINO = Finding("present", "2026.4.1", {"devices": ["cpu"]})
RUNTIME = Finding("present", "1.32", {"devices": ["cpu"]})
FINDINGS = {
    **dict.fromkeys(
        (place.partition(":")[2] for group in GROUPS for place in group), Finding("present", "ok")
    ),
    "gpu": Finding("missing", "no NVIDIA GPU"),
    "openvino": OPENVINO,
    "onnxruntime": RUNTIME,
    "tensorrt": Finding("missing", "not installed"),
}
BUILD = "idol-deploy plugins build"


def test_without_a_bundle() -> None:
    report = make_report(FINDINGS)
    assert report["can_run"]
    assert report["run"][0].startswith("the fastest of OpenVINO (cpu), ONNX Runtime (cpu); ")
    assert as_text(report).endswith("\n\nnothing is missing")
    tensorrt = Finding("present", "10.16", {"devices": ["cuda"]})
    first = make_report({**FINDINGS, "tensorrt": tensorrt})["run"][0]
    assert first.startswith("the fastest of TensorRT (cuda), OpenVINO (cpu), ONNX Runtime (cpu); ")


def test_without_an_answer() -> None:
    report = make_report(dict.fromkeys(FINDINGS, UNKNOWN))
    assert not report["can_run"]
    assert report["run"] == ["nothing: no inference engine can be used"]
    text = as_text(report)
    assert "? tensorrt             could not be found out: no answer within the time limit" in text
    assert text.endswith("\n\nnothing is missing")


def test_with_a_bundle() -> None:
    for choice, first in (
        (["running bf16 on OpenVINO (cpu); remembered from 2026-11-28", "a hint"], "running bf16"),
        ([], "the fastest graph, timed at the first start; bf16 passes"),
    ):
        bundle = Finding("present", "bf16 passes", {"choice": choice})
        report = make_report({**FINDINGS, "bundle": bundle})
        assert report["can_run"]
        assert report["run"][0].startswith(first)
        assert report["run"][-1] == "idol-deploy run BUNDLE --explain times all graphs"
    for finding in (Finding("faulty", "no graph runs here: why"), UNKNOWN):
        report = make_report({**FINDINGS, "bundle": finding})
        assert not report["can_run"]
        assert report["run"][0].startswith("nothing: ")


@pytest.mark.parametrize(
    ("fix", "needed"), [("pip install openvino", "openvino"), ("", "onnxruntime")], ids=["x86", "Arm"]
)
def test_one_engine_is_needed_and_listed_first(fix: str, needed: str) -> None:
    absent = {
        "clock": Finding("faulty", "not synchronised", {}, "set it"),
        "openvino": Finding("missing", "absent", {}, fix),
        "onnxruntime": Finding("missing", "absent", {}, "pip install onnxruntime"),
    }
    report = make_report({**FINDINGS, **absent})
    assert report["needed"] == needed
    lines = as_text(report).splitlines()
    first = lines.index("needed:")
    assert lines[first : first + 4] == [
        "needed:",
        f"  {needed}: absent",
        f"      pip install {needed}",
        "optional:",
    ]


def test_one_command_for_several_things() -> None:
    libraries = {
        "library_image": Finding("missing", "not built", {}, BUILD),
        "library_openvino": Finding("faulty", "of another release", {}, BUILD),
        "library_onnxruntime": Finding("missing", "not built", {}, f"{BUILD} --fetch-headers"),
    }
    assert as_text(make_report({**FINDINGS, **libraries})).endswith(
        "optional:\n  library image: not built\n  library openvino: of another release\n"
        f"  library onnxruntime: not built\n      {BUILD} --fetch-headers"
    )
