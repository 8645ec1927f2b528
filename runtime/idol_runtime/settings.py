"""One field of a configuration, as it was written on a command line."""

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from idol_runtime.errors import ConfigError

__all__ = ["read_setting"]


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
        raise ConfigError(f"{setting}: {error}") from error
