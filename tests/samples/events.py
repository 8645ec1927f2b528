"""The schema of events, and its check by the reference validator."""

import json
from collections.abc import Iterable
from importlib import resources
from typing import Any

import msgspec
import pytest

from idol_runtime.events import Event

__all__ = ["SCHEMA", "check_events", "problems"]

jsonschema = pytest.importorskip("jsonschema")

SCHEMA: dict[str, Any] = json.loads(
    resources.files("idol_runtime").joinpath("events.schema.json").read_text()
)
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def problems(event: object) -> list[str]:
    """Return what the schema finds wrong in an event, as it is written."""
    written = json.loads(msgspec.json.encode(event))
    return [f"{written}: {error.message}" for error in _VALIDATOR.iter_errors(written)]


def check_events(events: Iterable[Event]) -> set[str]:
    """Check that the schema accepts all events, and return their kinds."""
    kinds = set()
    for event in events:
        assert problems(event) == []
        kinds.add(event.kind)
    return kinds
