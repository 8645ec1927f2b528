"""What a training run tells: a file of JSON lines, TensorBoard's files, and for people a bar with the time left."""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from idol_deploy.train.step import StepReport
from idol_runtime.errors import OutputError
from idol_runtime.optional import import_optional

__all__ = ["JsonLines", "Progress", "TensorBoard", "record"]


def record(iteration: int, report: StepReport, faults: int) -> dict[str, Any]:
    """The JSON object of an iteration; times are in seconds, losses without their weights but for `loss`."""
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
    """A file of one JSON object per line, each written out at once."""

    def __init__(self, path: Path, after: int) -> None:
        """Opens it, without what it says of iterations after `after`: they are about to be done again.

        Raises:
            OutputError: it cannot be written.
        """
        self._path = path
        end = _end_of(path, after) if path.is_file() else 0
        try:
            # Without a buffer, which would try to write once more when it is closed.
            self._file = path.open("r+b" if end else "wb", buffering=0)
            if end:
                self._file.truncate(end)
                self._file.seek(end)
        except OSError as error:
            raise self._cannot(error) from error

    def write(self, entry: dict[str, Any]) -> None:
        """Adds an object.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            line = memoryview(json.dumps(entry).encode() + b"\n")
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise self._cannot(error) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _cannot(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot write {self._path}: {error.strerror or error}; free some space, then continue with --resume"
        )


def _end_of(path: Path, after: int) -> int:
    """Bytes of the lines up to an iteration; a line that was cut off ends it."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                done = json.loads(line)["iteration"] <= after
            except (ValueError, KeyError, TypeError):
                break
            if not done or not line.endswith(b"\n"):
                break
            end += len(line)
    return end


class TensorBoard:
    """The same numbers for TensorBoard."""

    def __init__(self, folder: Path, after: int) -> None:
        """Opens it.

        Args:
            folder: where its files go.
            after: what earlier files say of later iterations is void.

        Raises:
            MissingDependencyError: tensorboard is not installed.
        """
        import_optional("tensorboard", "tensorboard", "tensorboard", "writing TensorBoard's files")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=after + 1)

    def write(self, entry: dict[str, Any]) -> None:
        """Adds what is a number, and what is in groups of numbers."""
        iteration = entry["iteration"]
        for name, value in entry.items():
            for key, number in value.items() if isinstance(value, dict) else [("", value)]:
                if number is not None and name != "iteration":
                    self._writer.add_scalar(f"{name}/{key}".rstrip("/"), float(number), iteration)

    def close(self) -> None:
        """Closes its files."""
        self._writer.close()


class Progress:
    """How far it is, the loss, the rate, the speed, what share of it was waited for data, and the time left.

    A bar on a terminal, where tqdm is installed; elsewhere a line every few iterations.
    """

    def __init__(self, announce: Callable[[str], None], iterations: int, period: int, done: int = 0) -> None:
        """Begins after `done` of the iterations; numbers are means over `period` of them."""
        self._announce = announce
        self._iterations = iterations
        self._period = period
        self._since = time.perf_counter()
        self._entries: list[dict[str, Any]] = []
        self._bar = _bar(iterations, done)

    def write(self, entry: dict[str, Any]) -> None:
        """Takes the object of an iteration, and tells from time to time."""
        if "loss" not in entry:
            return
        self._entries.append(entry)
        done = entry["iteration"]
        if self._bar is not None:
            self._entries = self._entries[-self._period :]
            taken = sum(sum(entry["seconds"].values()) for entry in self._entries)
            self._bar.set_postfix_str(self._state(taken), refresh=False)
            self._bar.update()
            return
        if done % self._period and done != self._iterations:
            return
        now = time.perf_counter()
        taken = now - self._since
        each = taken / len(self._entries)
        self._announce(
            f"iteration {done} of {self._iterations}: {self._state(taken)}, {each:.2f} s each, "
            f"{_clock(each * (self._iterations - done))} left"
        )
        self._since, self._entries = now, []

    def tell(self, what: str) -> None:
        """Announces something else; on a terminal, in a line above the bar that stays."""
        if self._bar is None:
            self._announce(what)
        else:
            self._bar.write(what, file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _state(self, taken: float) -> str:
        loss = sum(entry["loss"] for entry in self._entries) / len(self._entries)
        waited = sum(entry["seconds"]["data"] for entry in self._entries)
        return f"loss {loss:.3f}, lr {self._entries[-1]['lr']:.1e}, {waited / max(taken, 1e-9):.0%} for data"


def _bar(iterations: int, done: int) -> Any:
    """None where there is no terminal or no tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    bar = tqdm(total=iterations, initial=done, desc="training", dynamic_ncols=True, disable=None)
    return None if bar.disable else bar


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
