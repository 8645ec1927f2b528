"""The report of an examination: what `run` would choose, and the commands that get what is missing."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from idol_runtime.backends.opening import BACKENDS, backend_class
from idol_runtime.doctor.probe import Finding

__all__ = ["as_text", "make_report"]

_MARKS = {"present": "+", "missing": "-", "faulty": "!", "unknown": "?"}
_LEGEND = "(+ present, - missing, ! faulty, ? could not be found out)"
# Engines as `run` tries them, and as they are recommended where none can be used.
_TRIED, _RECOMMENDED = tuple(BACKENDS)[::-1], ("openvino", "onnxruntime", "tensorrt")


def make_report(findings: Mapping[str, Finding]) -> dict[str, Any]:
    """Return the report of these findings; docs/cli.md describes it."""
    usable = {n: findings[n].details["devices"] for n in _TRIED if findings[n].state == "present"}
    bundle = findings.get("bundle")
    return {
        "format": 1,
        "idol_deploy": importlib.metadata.version("idol-deploy"),
        "can_run": bool(usable) if bundle is None else bundle.state == "present",
        "run": _run(usable, bundle),
        "needed": next((name for name in _RECOMMENDED if findings[name].fix and not usable), ""),
        "findings": findings,
    }


def as_text(report: Mapping[str, Any]) -> str:
    """Return the report for people."""
    findings: Mapping[str, Finding] = report["findings"]
    width = max(map(len, findings)) + 1
    lines = [f"{_MARKS[f.state]} {_title(name):{width}} {_summary(f)}" for name, f in findings.items()]
    lines += [_LEGEND, "", f"run: {report['run'][0]}", *(f"     {line}" for line in report["run"][1:]), ""]
    fixes = _fixes(findings)
    for title, needed in (("needed:", True), ("optional:", False)):
        chosen = {fix: names for fix, names in fixes.items() if (report["needed"] in names) is needed}
        lines += [title] * bool(chosen)
        for fix, names in chosen.items():
            lines += [*(f"  {_title(name)}: {_summary(findings[name])}" for name in names), f"      {fix}"]
    return "\n".join(lines if fixes else [*lines, "nothing is missing"])


def _fixes(findings: Mapping[str, Finding]) -> dict[str, list[str]]:
    """Return the commands, each with the names of its findings; of two, the one that continues the other is enough."""
    commands, fixes = [finding.fix for finding in findings.values()], dict[str, list[str]]()
    for name, finding in findings.items():
        if finding.fix:
            longest = max((command for command in commands if command.startswith(finding.fix)), key=len)
            fixes.setdefault(longest, []).append(name)
    return fixes


def _run(usable: Mapping[str, list[str]], bundle: Finding | None) -> list[str]:
    """Return what `run` would choose, and why."""
    if bundle is None:
        if not usable:
            return ["nothing: no inference engine can be used"]
        names = ", ".join(f"{backend_class(name).title} ({', '.join(usable[name])})" for name in usable)
        return [
            f"the fastest of {names}; the first start with a bundle times its graphs",
            "idol-deploy doctor BUNDLE checks a bundle; idol-deploy run BUNDLE --explain times its graphs",
        ]
    if bundle.state != "present":
        return [f"nothing: {_summary(bundle)}"]
    first = f"the fastest graph, timed at the first start; {bundle.summary}"
    return [*(bundle.details["choice"] or [first]), "idol-deploy run BUNDLE --explain times all graphs"]


def _title(name: str) -> str:
    return name.replace("_", " ")


def _summary(finding: Finding) -> str:
    return f"could not be found out: {finding.summary}" if finding.state == "unknown" else finding.summary
