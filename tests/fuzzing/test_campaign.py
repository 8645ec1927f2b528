"""The fuzzing itself: it finds what it looks for, and its inputs reach every parser."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from fuzzing import campaign
from fuzzing.campaign import Parser, fuzz
from idol_runtime.errors import DataError

REPORT = Path(__file__).parent / "report.json"


def _refuse(data: bytes, path: Path) -> None:
    assert path.read_bytes() == data
    if data[0] % 2:
        raise DataError("odd; make it even")


def _hang(data: bytes, path: Path) -> None:
    while True:
        pass


def _refuse_silently(data: bytes, path: Path) -> None:
    raise DataError("")


@pytest.mark.parametrize(
    ("parse", "what"),
    [
        (lambda data, path: [][0], "IndexError: list index out of range"),
        (lambda data, path: os.kill(os.getpid(), signal.SIGSEGV), "signal SIGSEGV"),
        (lambda data, path: bytearray(2**31), "MemoryError: "),
        (lambda data, path: json.loads("[" * 100_000), "RecursionError: "),
        (lambda data, path: os._exit(3), "exit status 3"),
        (_hang, "signal SIGPROF"),
        (_refuse_silently, "DataError: "),
    ],
)
def test_a_fault_of_every_kind_is_found(
    monkeypatch: pytest.MonkeyPatch, parse: Callable[[bytes, Path], object], what: str
) -> None:
    monkeypatch.setattr(campaign, "_CPU_S", 0.2)
    monkeypatch.setattr(campaign, "_CHUNK", 3)

    def parse_some(data: bytes, path: Path) -> None:
        if data == b"\x07":
            parse(data, path)
        _refuse(data, path)

    numbers = iter(range(10))
    parsers = {
        "sound": Parser(lambda rng: rng.randbytes(1), _refuse),
        "faulty": Parser(lambda rng: bytes([next(numbers) % 10]), parse_some),
    }
    report = fuzz(parsers, inputs=20, seed=0)
    assert [(fault["name"], fault["count"]) for fault in report.faults] == [("faulty", 1)]
    assert report.faults[0]["what"].startswith(what)
    assert report.faults[0]["input"] == "\x07"
    assert {name: counts["inputs"] for name, counts in report.parsers.items()} == {"sound": 10, "faulty": 10}
    assert 0 < report.parsers["sound"]["refused"] < 10


def test_the_seed_decides_the_inputs() -> None:
    makes = [Parser(lambda rng: rng.randbytes(4), lambda data, path: [][data[0]])] * 2
    first, again = (fuzz({"a": parser}, inputs=5, seed=3).faults for parser in makes)
    other = fuzz({"a": makes[0]}, inputs=5, seed=4, workers=2).faults
    assert first == again != other
    assert first[0]["input"].encode("latin-1") == Random(f"3 a {first[0]['index']}").randbytes(4)


def _campaign(inputs: int, seed: int) -> None:
    from fuzzing.parsers import PARSERS

    report = fuzz(PARSERS, inputs, seed, workers=2)
    assert report.faults == []
    for name, counts in report.parsers.items():
        assert 0 < counts["refused"] < counts["inputs"], name


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
def test_no_parser_fails() -> None:
    _campaign(4_000, seed=1)


@pytest.mark.slow
def test_no_parser_fails_on_many_inputs() -> None:
    _campaign(50_000, seed=2)


def test_the_report_covers_every_parser() -> None:
    from fuzzing.parsers import PARSERS

    report = json.loads(REPORT.read_text())
    assert report["inputs"] >= 500_000
    assert report["faults"] == []
    assert set(report["parsers"]) == set(PARSERS)
