"""The registry of sinks: one class per option, and the outputs that option values ask for."""

from pathlib import Path

import pytest

from idol_runtime.sinks.base import Sink
from idol_runtime.sinks.opening import SINKS, SinkKind, requested_outputs


@pytest.mark.parametrize("kind", SINKS, ids=lambda kind: kind.name)
def test_every_kind_has_a_class(kind: SinkKind) -> None:
    (output,) = requested_outputs(**{kind.name: "a" if kind.metavar else True})
    assert issubclass(output.sink, Sink)
    assert output.path == (Path("a") if output.sink.is_path else None)
    assert output.kind is kind


def test_only_requested_outputs_are_returned() -> None:
    assert requested_outputs(save=None, display=False) == ()
    save, display = requested_outputs(save=Path("a.mp4"), jsonl=None, display=True)
    assert (save.kind.name, save.target) == ("save", "a.mp4")
    assert (display.kind.name, display.target) == ("display", "")


def test_names_of_a_source() -> None:
    (output,) = requested_outputs(jsonl="{number}/{source}.jsonl")
    assert output.for_source("street", 2).path == Path("2/street.jsonl")
