"""JSON: its encodings, the errors of its parser, where a value is not a number, and names that are no Unicode."""

import json
import re
from typing import Any

import msgspec

__all__ = ["JSON_ERRORS", "json_fault", "to_json", "to_utf8"]

# Errors that msgspec raises for a text that is no JSON, is nested too deeply, or has other values than its type.
JSON_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)

_NOT_FINITE = re.compile(rb"NaN|Infinity")


def to_utf8(text: bytes) -> bytes:
    """Return JSON text as UTF-8 without a byte order mark; UTF-16 and UTF-32 are recognised.

    Raises:
        UnicodeError: the text is broken.
    """
    encoding = json.detect_encoding(text)
    return text if encoding == "utf-8" else text.decode(encoding).encode()


def to_json(value: object) -> bytes:
    """Return a value as JSON; parts of file names that are no UTF-8 become question marks."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="replace")


def json_fault(error: BaseException, text: bytes, fix: str) -> str:
    """Describe one of `JSON_ERRORS`, and how to fix it. The place of a NaN or infinity is named.

    Args:
        error: error of the parser.
        text: text that was parsed.
        fix: advice for other errors.
    """
    if isinstance(error, RecursionError):
        return f"its values are nested too deeply; {fix}"
    place = _not_finite(text) if _NOT_FINITE.search(text) else None
    return f"{error}; {fix}" if place is None else f"{place}; write a finite number or null"


def _not_finite(text: bytes) -> str | None:
    """Return the path of the first NaN or infinity, such as `annotations[3].areas[0] is NaN`; None without one."""
    try:
        root = json.loads(text, parse_constant=_Constant)
    except (ValueError, RecursionError):
        return None
    pending: list[tuple[str, Any]] = [("", root)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, _Constant):
            return f"{path.removeprefix('.') or 'its value'} is {value.name}"
        if isinstance(value, dict):
            inner = [(f"{path}.{key}", value[key]) for key in value if _may_hold(value[key])]
        else:
            inner = [(f"{path}[{i}]", entry) for i, entry in enumerate(value) if _may_hold(entry)]
        pending += reversed(inner)
    return None


def _may_hold(value: object) -> bool:
    return isinstance(value, dict | list | _Constant)


class _Constant:
    """A value that Python's parser reads and JSON does not have."""

    def __init__(self, name: str) -> None:
        self.name = name
