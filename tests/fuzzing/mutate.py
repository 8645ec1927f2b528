"""Mutations of valid inputs: of bytes, of JSON values, of settings, and of the members of archives."""

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

__all__ = ["Seal", "mutate_archive", "mutate_bytes", "mutate_json", "mutate_safetensors", "mutate_setting"]

# From members by name to the bytes of the archive.
Seal = Callable[[Mapping[str, bytes]], bytes]

_DEEP = "@deep@"
_NUMBERS = (
    *(
        0,
        -1,
        1,
        2,
        3,
        255,
        65_535,
        65_536,
        2**27,
        2**31 - 1,
        2**31,
        2**32,
        2**33,
        2**40,
        2**63 - 1,
        2**63,
        2**64,
    ),
    *(10**30, 10**400, -(2**31), -(2**63), -(2**63) - 1, 0.5, -0.0, 1e-320, 1e18, 1e300, 1.7e308, -1e308),
    *(float("nan"), float("inf"), float("-inf")),
)
_TEXTS = (
    "",
    "0",
    "P",
    "`0",
    "PP",
    "~~~~",
    "o" * 40,
    "\x00",
    "\\",
    "..\\a",
    "../../a",
    "é",
    "\U0001f600",
    "x" * 5000,
    "nan",
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], [None], [{}], {"": 0}, [1, 2, 3, 4, 5, 6], [0] * 300, _DEEP),
    {"size": [4, 6], "counts": [24]},
    {"size": [4, 6], "counts": "P1"},
    [[1, 1, 2**30, 1, 5, 5]],
)
_TOKENS = (
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b'"',
        b"\\",
        b"\\ud800",
        b"\xff",
        b"\x00",
        b"\xef\xbb\xbf",
        b"NaN",
        b"1e999",
    ),
    *(b"-", b"PK\x03\x04", b"\x80\x02", b"null", b"9" * 40, b"=", b".", b"\n"),
)
_DEPTHS = (5, 200, 990, 1010, 20_000)


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """Change a few places of a text or file."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        size = len(changed)
        at, length = rng.randrange(size + 1), rng.choice((1, 2, 4, 8, 64))
        kind = rng.randrange(8)
        if kind == 0 and size:
            changed[at % size] ^= 1 << rng.randrange(8)
        elif kind == 1 and size:
            changed[at % size] = rng.randrange(256)
        elif kind == 2:
            changed[at:at] = rng.randbytes(length)
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = changed[rng.randrange(size + 1) :][: length * 8]
        elif kind == 5:
            form = rng.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
            most = 2 ** (8 * struct.calcsize(form)) - 1
            number = struct.pack(form, rng.choice((0, 1, most, most // 2, most // 2 + 1, min(most, 2**30))))
            changed[at : at + len(number)] = number
        elif kind == 6:
            changed[at:at] = rng.choice(_TOKENS)
        elif rng.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def mutate_json(rng: Random, text: bytes) -> bytes:
    """Change a few values of a JSON text; then now and then its encoding and its bytes."""
    root = [json.loads(text)]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        places = list(_places(root))
        _edit(rng, *rng.choice(places[1:] or places))
        root = root or [None]
    changed = json.dumps(root[0], ensure_ascii=rng.random() < 0.5)
    if _DEEP in changed:
        depth = rng.choice(_DEPTHS)
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        changed = changed.replace(
            f'"{_DEEP}"', opening * depth + "0" + closing * (depth - (rng.random() < 0.1))
        )
    encoding = rng.choice(("utf-8-sig", "utf-16", "utf-32-be", "latin-1")) if rng.random() < 0.03 else "utf-8"
    encoded = changed.encode(encoding, "replace")
    return mutate_bytes(rng, encoded) if rng.random() < 0.2 else encoded


def _places(root: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield every container below the root with each of its keys."""
    pending: list[Any] = [root]
    while pending:
        container = pending.pop()
        for key, value in container.items() if isinstance(container, dict) else enumerate(container):
            yield container, key
            if isinstance(value, dict | list):
                pending.append(value)


def _edit(rng: Random, container: Any, key: Any) -> None:
    value, kind = container[key], rng.randrange(10)
    if kind < 3 and isinstance(value, int | float):
        container[key] = rng.choice(
            (-value, value + 1, value - 1, value * 2, value * 1000, rng.choice(_NUMBERS))
        )
    elif kind < 3 and isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        container[key] = rng.choice(
            (rng.choice(_TEXTS), value[:at], value[:at] + rng.choice(_TEXTS) + value[at:])
        )
    elif kind < 4:
        container[key] = rng.choice(_NUMBERS)
    elif kind < 5:
        container[key] = rng.choice(_TEXTS)
    elif kind < 7:
        container[key] = json.loads(json.dumps(rng.choice(_VALUES)))
    elif kind < 8:
        del container[key]
    elif isinstance(container, list):
        container[key:key] = [value] * rng.choice((1, 2, 50))
    else:
        other = rng.choice(list(container))
        container[key], container[other] = container[other], value


def mutate_setting(rng: Random, setting: bytes) -> bytes:
    """Change a `key=value` text."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, setting)
    key, _, value = setting.decode().partition("=")
    number = rng.choice(_NUMBERS)
    shown = str(number) if isinstance(number, float) or abs(number) < 10**40 else "9" * 5000
    values = (
        shown,
        rng.choice(_TEXTS),
        "none",
        "true",
        f"({value})",
        f"{shown},{value}",
        f"{value},{shown}",
        f"{value}e9",
    )
    return f"{key}={rng.choice(values)}".encode(errors="replace")


def mutate_archive(rng: Random, members: Mapping[str, bytes], seal: Seal) -> bytes:
    """Change a member of an archive and write it with correct hashes, or change the bytes of the whole file."""
    if rng.random() < 0.25:
        return mutate_bytes(rng, seal(members))
    changed = dict(members)
    name = rng.choice(list(changed))
    data = changed[name]
    if name.endswith(".json") and rng.random() < 0.9:
        changed[name] = mutate_json(rng, data)
    elif data[:4] == b"PK\x03\x04" and rng.random() < 0.8:
        with zipfile.ZipFile(io.BytesIO(data)) as inner:
            changed[name] = mutate_archive(rng, {n: inner.read(n) for n in inner.namelist()}, stored_zip)
    elif rng.random() < 0.1:
        del changed[name]
    else:
        # Headers are at the start of a member.
        changed[name] = (
            mutate_bytes(rng, data[:200]) + data[200:] if rng.random() < 0.6 else mutate_bytes(rng, data)
        )
    return seal(changed)


def stored_zip(members: Mapping[str, bytes], comment: bytes = b"") -> bytes:
    """Return a zip file without compression."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = comment
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def mutate_safetensors(rng: Random, data: bytes) -> bytes:
    """Change the header of a safetensors file, or its bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    size = int.from_bytes(data[:8], "little")
    header = mutate_json(rng, data[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + data[8 + size :]
