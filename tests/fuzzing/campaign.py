"""A fuzzing campaign: worker processes with limits of memory and time, and a report.

The inputs follow from the seed alone. A worker that a signal ends is a fault of its input; another worker goes on with
the next one.
"""

import faulthandler
import json
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from idol_plugins.errors import IdolError

__all__ = ["Parser", "Report", "fuzz"]

_CHUNK = 500
_MEMORY = 2**30  # bytes that the inputs of a worker may need beyond those at its start
_CPU_S, _WALL_S = 30, 600  # of one input
_SAVED = 4096  # bytes of an input that a report has


@dataclass(frozen=True)
class Parser:
    """A parser to fuzz.

    Attributes:
        make: returns the input of a random generator.
        parse: parses an input, which is also in the file; may raise `IdolError`.
        share: share of the inputs, relative to the other parsers.
    """

    make: Callable[[Random], bytes]
    parse: Callable[[bytes, Path], object]
    share: float = 1.0


@dataclass
class Report:
    """The result of a campaign.

    Attributes:
        parsers: inputs, refused inputs and the longest time of one input in ms, by parser.
        faults: one entry per place: parser, index of the first input, what happened, traceback, count and the input.
    """

    parsers: dict[str, dict[str, float]] = field(default_factory=dict)
    faults: list[dict[str, Any]] = field(default_factory=list)


def fuzz(parsers: Mapping[str, Parser], inputs: int, seed: int, workers: int = 1) -> Report:
    """Parse mutated inputs.

    Args:
        parsers: parsers by name.
        inputs: number of inputs of all parsers together.
        seed: seed of the inputs.
        workers: number of processes.
    """
    whole = sum(parser.share for parser in parsers.values())
    chunks = [
        (name, start, min(start + _CHUNK, count))
        for name, parser in parsers.items()
        if (count := round(inputs * parser.share / whole))
        for start in range(0, count, _CHUNK)
    ]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        running = [
            _Worker(parsers, chunks[rank::workers], seed, Path(folder) / str(rank)) for rank in range(workers)
        ]
        for worker in running:
            worker.start()
        for worker in running:
            while worker.ended(os.waitpid(worker.pid, 0)[1]):
                pass
        lines = [line for path in Path(folder).glob("*.jsonl") for line in path.read_text().splitlines()]
        return _report(parsers, [json.loads(line) for line in lines])


class _Worker:
    def __init__(
        self, parsers: Mapping[str, Parser], chunks: Sequence[tuple[str, int, int]], seed: int, path: Path
    ) -> None:
        self._parsers, self._chunks, self._seed, self._path = parsers, chunks, seed, path
        self._place = mmap.mmap(-1, 24)  # chunk, its first input and the current one; shared with the process
        self._lines = path.with_suffix(".jsonl")
        self._lines.touch()
        self.pid = 0

    def start(self) -> None:
        """Start a process at the current place."""
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            try:
                self._run()
            except BaseException:  # noqa: BLE001 - a fault of the campaign itself
                traceback.print_exc()
                os._exit(99)
            os._exit(0)

    def ended(self, status: int) -> bool:
        """Record the end of the process, and start another if inputs are left."""
        if os.waitstatus_to_exitcode(status) == 99:
            raise RuntimeError("the fuzzing itself failed; see the traceback above")
        if not status:
            return False
        chunk, first, index = struct.unpack("QQQ", self._place)
        name, _, stop = self._chunks[chunk]
        code = os.waitstatus_to_exitcode(status)
        what = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        self._write(name=name, index=index, what=what, place="", input=self._path.read_bytes())
        self._write(name=name, inputs=index + 1 - first, refused=0, ms=0.0)
        chunk, index = (chunk, index + 1) if index + 1 < stop else (chunk + 1, 0)
        if chunk == len(self._chunks):
            return False
        self._place[:] = struct.pack("QQQ", chunk, index, index)
        self.start()
        return True

    def _run(self) -> None:
        warnings.simplefilter("error")
        faulthandler.disable()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        first, offset, _ = struct.unpack("QQQ", self._place)
        for number, (name, start, stop) in enumerate(self._chunks[first:], first):
            start = max(start, offset) if number == first else start
            refused, longest = 0, 0.0
            for index in range(start, stop):
                self._place[:] = struct.pack("QQQ", number, start, index)
                began = time.process_time()
                refused += self._parse(name, index)
                longest = max(longest, time.process_time() - began)
            self._write(name=name, inputs=stop - start, refused=refused, ms=1000 * longest)

    def _parse(self, name: str, index: int) -> bool:
        """Parse one input; return True if it was refused."""
        parser = self._parsers[name]
        data = parser.make(Random(f"{self._seed} {name} {index}"))
        self._path.write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, _CPU_S)
        signal.setitimer(signal.ITIMER_REAL, _WALL_S)
        try:
            parser.parse(data, self._path)
        except IdolError as error:
            if str(error):
                return True
            self._fault(name, index, error, data)
        except Exception as error:  # noqa: BLE001 - what this campaign looks for
            self._fault(name, index, error, data)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False

    def _fault(self, name: str, index: int, error: BaseException, data: bytes) -> None:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        place = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[::-1][:6])
        what = f"{type(error).__name__}: {str(error)[:200]}"
        self._write(name=name, index=index, what=what, place=place, input=data)

    def _write(self, **entry: Any) -> None:
        if "input" in entry:
            entry["input"] = entry["input"][:_SAVED].decode("latin-1")
        with self._lines.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def _report(parsers: Mapping[str, Parser], entries: Sequence[dict[str, Any]]) -> Report:
    report = Report({name: {"inputs": 0, "refused": 0, "slowest_ms": 0.0} for name in parsers})
    faults: dict[tuple[str, str, str], dict[str, Any]] = {}
    for entry in entries:
        if "what" in entry:
            key = entry["name"], entry["what"].partition(":")[0], entry["place"]
            faults.setdefault(key, entry | {"count": 0})["count"] += 1
        else:
            counts = report.parsers[entry["name"]]
            counts["inputs"] += entry["inputs"]
            counts["refused"] += entry["refused"]
            counts["slowest_ms"] = max(counts["slowest_ms"], round(entry["ms"], 1))
    report.faults = sorted(faults.values(), key=lambda fault: -fault["count"])
    return report
