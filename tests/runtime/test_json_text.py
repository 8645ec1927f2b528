import json

import msgspec
import pytest

from idol_runtime.json_text import JSON_ERRORS, json_fault, to_json, to_utf8

VALUE = {"name": "Straße 日本", "ids": [3_000_000_001]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_encoding_is_read(encoding: str) -> None:
    text = json.dumps(VALUE, ensure_ascii=False).encode(encoding)
    assert msgspec.json.decode(to_utf8(text)) == VALUE


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b'{"a": [{"b": 1}, {"b": [null, NaN]}], "c": Infinity}', r"a[1].b[1] is NaN; write a finite"),
        (b"[1, -Infinity]", "[1] is -Infinity; write a finite number or null"),
        (b'{"{}": {"}": NaN}}', "{}.} is NaN; write a finite number or null"),
        (b"NaN", "its value is NaN; write a finite number or null"),
        (b'{"NaN": 1', "Input data was truncated; copy it again"),
        (b"[" * 100_000, "its values are nested too deeply; copy it again"),
        (b'{"NaN": ' + b"[" * 100_000, "its values are nested too deeply; copy it again"),
        (b'"\xff"', "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte; copy it again"),
    ],
)
def test_a_fault_names_its_place_and_its_fix(text: bytes, fault: str) -> None:
    with pytest.raises(JSON_ERRORS) as raised:
        msgspec.json.decode(text)
    assert json_fault(raised.value, text, "copy it again").startswith(fault)


def test_half_of_an_encoding() -> None:
    with pytest.raises(JSON_ERRORS):
        to_utf8(json.dumps(VALUE).encode("utf-16")[:-1])


def test_file_names_that_are_no_utf8_are_encoded() -> None:
    assert to_json({"ü": ("\udcff ü.mp4", 1.5)}) == '{"ü":["? ü.mp4",1.5]}'.encode()
    assert to_json(VALUE) == msgspec.json.encode(VALUE)
