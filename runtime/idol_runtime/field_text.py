"""Values of configuration fields from the command line."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from idol_runtime.errors import ConfigError

__all__ = ["read_setting"]

# Name of one value of a type, and of several.
_WORDS: Mapping[Any, tuple[str, str]] = {
    bool: ("true or false", "of true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    type(None): ("none", "none"),
}


def read_setting(owner: object, key: str, text: str, setting: str) -> Any:
    """Return the value of a field from its text.

    Args:
        owner: dataclass instance; its fields that are dataclasses are not settings.
        key: name of the field.
        text: value; several values are separated by commas; `none` for an optional field.
        setting: complete setting, for messages.

    Raises:
        ConfigError: the field is unknown, or the value has a wrong type.
    """
    assert is_dataclass(owner)
    plain = [field.name for field in fields(owner) if not is_dataclass(getattr(owner, field.name))]
    if key not in plain:
        raise ConfigError(f"{setting}: unknown key {key!r}; choose one of {', '.join(plain)}")
    kind = get_type_hints(type(owner))[key]
    value: object = text
    if get_origin(kind) is tuple:
        value = text.strip("()[] ").replace(",", " ").split()
    elif text.lower() in ("none", "null") and type(None) in get_args(kind):
        value = None
    try:
        converted: Any = msgspec.convert(value, kind, strict=False)
    except (msgspec.ValidationError, UnicodeError) as error:  # UnicodeError: bytes that are no UTF-8
        raise ConfigError(f"{setting}: {key} takes {_description(kind)}") from error
    numbers = converted if isinstance(converted, tuple) else (converted,)
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise ConfigError(f"{setting}: {key} takes a finite number")
    return converted


def _description(kind: Any) -> str:
    """Describe the values of a type, for messages."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if get_origin(kind) is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"{count}{_WORDS[inner[0]][1]} separated by commas"
    return " or ".join(map(_description, inner)) if inner else _WORDS[kind][0]
