"""One field of a configuration, as it was written on a command line."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from idol_runtime.errors import ConfigError

__all__ = ["read_setting"]

# One value of a type, and several.
_WORDS: Mapping[Any, tuple[str, str]] = {
    bool: ("true or false", "of true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    type(None): ("none", "none"),
}


def read_setting(owner: object, key: str, text: str, setting: str) -> Any:
    """The value that a field is to have.

    Args:
        owner: a dataclass; fields that are dataclasses themselves are no settings.
        key: of the field.
        text: its value; of several between commas; `none` where there need be none.
        setting: all that was written, for messages.

    Raises:
        ConfigError: no such field, or a value of another type.
    """
    assert is_dataclass(owner)
    plain = [field.name for field in fields(owner) if not is_dataclass(getattr(owner, field.name))]
    if key not in plain:
        raise ConfigError(f"{setting}: there is no {key!r}; take {', '.join(plain)}")
    kind = get_type_hints(type(owner))[key]
    value: object = text
    if get_origin(kind) is tuple:
        value = text.strip("()[] ").replace(",", " ").split()
    elif text.lower() in ("none", "null") and type(None) in get_args(kind):
        value = None
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{setting}: {key} takes {_wanted(kind)}") from error


def _wanted(kind: Any) -> str:
    """What a value of a type is, for messages."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if get_origin(kind) is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"{count}{_WORDS[inner[0]][1]} between commas"
    return " or ".join(map(_wanted, inner)) if inner else _WORDS[kind][0]
