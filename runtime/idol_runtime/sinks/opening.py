"""The registry of sink kinds: command-line options, their checks, and the classes that write.

This module imports no sink until an output is requested, so that `idol-deploy --help` stays fast.
"""

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from idol_runtime.sinks.base import Sink

__all__ = ["SINKS", "Output", "SinkKind", "requested_outputs"]


class SinkKind(NamedTuple):
    """A kind of output and its command-line option.

    Attributes:
        name: name of the option: one word, without dashes.
        metavar: name of the option's value in --help; None for a switch without a value.
        help: help text of the option.
        sink: class of the sink, as "module:class" of this folder.
    """

    name: str
    metavar: str | None
    help: str
    sink: str


SINKS = [
    SinkKind(
        "save", "FILE", "write an annotated video without sound (.mp4, .mkv or .avi)", "video:VideoSink"
    ),
    SinkKind("jsonl", "FILE", "write one JSON object per frame, with masks as RLE", "jsonl:JsonlSink"),
    SinkKind("results", "FILE", "write results.json in the YouTube-VIS / OVIS format", "results:ResultsSink"),
    SinkKind("masks", "DIR", "write one 16-bit PNG per frame (id + 1; background 0)", "masks:MaskSink"),
    SinkKind("display", None, "show a window; q or Esc stops the run", "display:DisplaySink"),
]


@dataclass(frozen=True)
class Output:
    """A requested output.

    Attributes:
        kind: kind of sink.
        target: value of the option; empty for a switch.
    """

    kind: SinkKind
    target: str

    @property
    def sink(self) -> "type[Sink]":
        """Class of the sink, imported on first use."""
        module, _, name = self.kind.sink.partition(":")
        sink: type[Sink] = getattr(import_module(f"idol_runtime.sinks.{module}"), name)
        return sink

    @property
    def path(self) -> Path | None:
        """File or folder to write; None if the target is not a path."""
        return Path(self.target) if self.sink.is_path else None

    def for_source(self, label: str, number: int) -> "Output":
        """Return the output with `{source}` replaced by the source's label and `{number}` by its number."""
        target = self.target.replace("{source}", label).replace("{number}", str(number))
        return replace(self, target=target)


def requested_outputs(**values: object) -> tuple[Output, ...]:
    """Return the outputs that option values ask for: `requested_outputs(save="out.mp4", display=True)`.

    Args:
        values: values by the name of a kind: a path or other text, or True for a switch. A kind whose value is None or
            False is not requested.
    """
    kinds = {kind.name: kind for kind in SINKS}
    return tuple(
        Output(kinds[name], str(value) if kinds[name].metavar else "")
        for name, value in values.items()
        if value not in (None, False)
    )
