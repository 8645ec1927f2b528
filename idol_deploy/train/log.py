"""The log of a training run: a file of JSON lines, TensorBoard files, and a progress bar or lines on the console."""

import json
import math
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from idol_deploy.train.step import StepReport
from idol_runtime.errors import OutputError
from idol_runtime.optional import import_optional

__all__ = ["JsonLines", "Progress", "TensorBoard", "record"]


def record(iteration: int, report: StepReport, faults: int) -> dict[str, Any]:
    """Return the log entry of an iteration; times are in seconds, `losses` are before their weights."""
    return {
        "iteration": iteration,
        "loss": report.total,
        "losses": report.losses,
        "lr": report.rate,
        # JSON has no infinity.
        "grad_norm": report.grad_norm if math.isfinite(report.grad_norm) else None,
        "skipped": report.skipped,
        "matched": report.matched,
        "items": report.items,
        "seconds": report.seconds,
        "faults": faults,
    }


class JsonLines:
    """A file of one JSON object per line, written without a buffer."""

    def __init__(self, path: Path, after: int) -> None:
        """Open the file and drop the entries of iterations after `after`, which the run repeats.

        Raises:
            OutputError: the file cannot be written.
        """
        self._path = path
        end = _end_of(path, after) if path.is_file() else 0
        try:
            # Unbuffered: closing must not try to write again after a failure.
            self._file = path.open("r+b" if end else "wb", buffering=0)
            if end:
                self._file.truncate(end)
                self._file.seek(end)
        except OSError as error:
            raise self._cannot(error) from error

    def write(self, entry: dict[str, Any]) -> None:
        """Append an entry.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            line = memoryview(json.dumps(entry).encode() + b"\n")
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise self._cannot(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _cannot(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot write {self._path}: {error.strerror or error}; free some space, then continue with --resume"
        )


def _end_of(path: Path, after: int) -> int:
    """Return the size in bytes of the complete lines up to an iteration."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                done = json.loads(line)["iteration"] <= after
            except (ValueError, KeyError, TypeError, RecursionError):
                break
            if not done or not line.endswith(b"\n"):
                break
            end += len(line)
    return end


class TensorBoard:
    """A writer of the same numbers to TensorBoard files."""

    def __init__(self, folder: Path, after: int) -> None:
        """Open the writer.

        Args:
            folder: folder of the TensorBoard files.
            after: last iteration to keep; entries of later iterations in earlier files are void.

        Raises:
            MissingDependencyError: tensorboard is not installed.
        """
        import_optional("tensorboard", "tensorboard", "tensorboard", "writing TensorBoard's files")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=after + 1)

    def write(self, entry: dict[str, Any]) -> None:
        """Append the numbers of an entry, and those in its groups."""
        iteration = entry["iteration"]
        for name, value in entry.items():
            for key, number in value.items() if isinstance(value, dict) else [("", value)]:
                if number is not None and name != "iteration":
                    self._writer.add_scalar(f"{name}/{key}".rstrip("/"), float(number), iteration)

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


class Progress:
    """The progress on the console: loss, learning rate, speed, share of time spent waiting for data, and time left.

    A terminal shows a bar; anything else gets a line every `period` iterations.
    """

    def __init__(self, announce: Callable[[str], None], iterations: int, period: int, done: int = 0) -> None:
        """Start after `done` of the iterations; numbers are means over `period` iterations."""
        self._announce = announce
        self._iterations = iterations
        self._period = period
        self._since = time.perf_counter()
        self._entries: list[dict[str, Any]] = []
        self._bar = tqdm(total=iterations, initial=done, desc="training", dynamic_ncols=True, disable=None)

    def write(self, entry: dict[str, Any]) -> None:
        """Add the entry of an iteration, and update the bar or print a line if it is due."""
        if "loss" not in entry:
            return
        self._entries.append(entry)
        done = entry["iteration"]
        if not self._bar.disable:
            self._entries = self._entries[-self._period :]
            seconds = sum(sum(entry["seconds"].values()) for entry in self._entries)
            self._bar.set_postfix_str(self._state(seconds), refresh=False)
            self._bar.update()
            return
        if done % self._period and done != self._iterations:
            return
        now = time.perf_counter()
        seconds = now - self._since
        each = seconds / len(self._entries)
        self._announce(
            f"iteration {done} of {self._iterations}: {self._state(seconds)}, {each:.2f} s each, "
            f"{timedelta(seconds=round(each * (self._iterations - done)))} left"
        )
        self._since, self._entries = now, []

    def announce(self, message: str) -> None:
        """Print a message; on a terminal, above the bar."""
        if self._bar.disable:
            self._announce(message)
        else:
            self._bar.write(message, file=sys.stderr)

    def close(self) -> None:
        """Close the bar; its last state remains on the terminal."""
        self._bar.close()

    def _state(self, seconds: float) -> str:
        loss = sum(entry["loss"] for entry in self._entries) / len(self._entries)
        waited = sum(entry["seconds"]["data"] for entry in self._entries)
        return (
            f"loss {loss:.3f}, lr {self._entries[-1]['lr']:.1e}, {waited / max(seconds, 1e-9):.0%} for data"
        )
