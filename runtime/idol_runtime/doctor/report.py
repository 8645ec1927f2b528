"""The report of an examination, as text and as JSON."""

import importlib.metadata
from collections.abc import Mapping

import msgspec

from idol_runtime.backends.opening import backend_class
from idol_runtime.doctor.advice import Advice, advise, engines, quoted
from idol_runtime.doctor.probe import Finding

__all__ = ["Report", "make_report"]

_MARKS = {"present": "+", "missing": "-", "faulty": "!", "unknown": "?"}
_LEGEND = "+ present, - missing, ! faulty, ? could not be found out"


class Report(msgspec.Struct, frozen=True):
    """The report; docs/cli.md describes its JSON.

    Attributes:
        format: version of the JSON; it grows when a key is removed or changes its meaning.
        idol_deploy: version of this package.
        can_run: True if an engine can be used or, with a bundle, if a graph of it passes the golden check.
        run: what `run` would choose and why, in lines.
        findings: result of each probe by name.
        missing: what is missing, with the command that gets it.
    """

    format: int
    idol_deploy: str
    can_run: bool
    run: list[str]
    findings: dict[str, Finding]
    missing: list[Advice]

    def as_json(self) -> str:
        """Return the report as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()

    def as_text(self) -> str:
        """Return the report for people."""
        width = max(map(len, self.findings)) + 1
        lines = [
            f"{_MARKS[finding.state]} {name.replace('_', ' '):{width}} {_unknown(finding)}{finding.summary}"
            for name, finding in self.findings.items()
        ]
        lines += [f"({_LEGEND})", "", f"run: {self.run[0]}", *(f"     {line}" for line in self.run[1:]), ""]
        for title, needed in (("needed:", True), ("optional:", False)):
            entries = [entry for entry in self.missing if entry.needed is needed]
            lines += [title] * bool(entries)
            lines += [text for e in entries for text in (f"  {e.name}: {e.why}", f"      {e.fix}")]
        return "\n".join(lines if self.missing else [*lines, "nothing is missing"])


def make_report(findings: dict[str, Finding]) -> Report:
    """Return the report of these findings."""
    usable = engines(findings)
    bundle = findings.get("bundle")
    can_run = bool(usable) if bundle is None else bundle.state == "present"
    version = importlib.metadata.version("idol-deploy")
    return Report(1, version, can_run, _run(usable, bundle), findings, advise(findings))


def _run(usable: Mapping[str, list[str]], bundle: Finding | None) -> list[str]:
    """Return what `run` would choose, and why."""
    names = [f"{backend_class(name).title} ({', '.join(devices)})" for name, devices in usable.items()]
    if bundle is None:
        if not names:
            return ["nothing: no inference engine can be used"]
        return [
            f"the fastest of {', '.join(names)}; the first start with a bundle times its graphs",
            "idol-deploy doctor BUNDLE checks a bundle; idol-deploy run BUNDLE --explain times its graphs",
        ]
    if bundle.state != "present":
        return [f"nothing: {_unknown(bundle)}{bundle.summary}"]
    times = f"idol-deploy run {quoted(bundle.details['path'])} --explain times all graphs"
    if bundle.details["choice"]:
        return [*bundle.details["choice"], times]
    return [f"the fastest graph, timed at the first start; {bundle.summary}", times]


def _unknown(finding: Finding) -> str:
    return "could not be found out: " if finding.state == "unknown" else ""
