"""What is wrong in a data set: named, counted, and told in a few lines instead of a hundred thousand."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from idol_runtime.errors import DataError

__all__ = ["Fault", "FaultLog", "missing_files"]


@dataclass(frozen=True)
class Fault:
    """One thing that cannot be used.

    Attributes:
        kind: what faults are counted by, such as `missing frame`.
        where: which video and frame, or which annotation.
        detail: what is wrong, and what would mend it.
    """

    kind: str
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}"


@dataclass
class FaultLog:
    """Faults by kind, with the first of each.

    Attributes:
        strict: refuse the first fault instead of counting it.
        counts: how many of each kind.
        first: the first of each kind that came with its name.
    """

    strict: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, Fault] = field(default_factory=dict)

    def add(self, fault: Fault) -> None:
        """Count a fault.

        Raises:
            DataError: under `strict`.
        """
        if self.strict:
            raise DataError(str(fault))
        self.counts[fault.kind] += 1
        self.first.setdefault(fault.kind, fault)

    def take(self, counts: Mapping[str, int], first: Mapping[str, str]) -> None:
        """Add what someone else has counted: how many of each kind, and the first of each in words."""
        self.counts.update(counts)
        for kind, message in first.items():
            where, _, detail = message.rpartition(": ")
            self.first.setdefault(kind, Fault(kind, where, detail))

    def summary(self) -> Sequence[str]:
        """One line per kind, the most frequent first; none where nothing is wrong."""
        lines = []
        for kind, count in self.counts.most_common():
            example = f", first {self.first[kind]}" if kind in self.first else ""
            lines.append(f"{count} x {kind}{example}")
        return lines


def missing_files(root: Path, names: Iterable[str]) -> set[str]:
    """Those of the names that are not below a folder. Lists each folder once instead of asking for each file.

    Raises:
        DataError: none of them is there, so that the folder must be the wrong one.
    """
    listed: dict[str, frozenset[str]] = {}
    missing, found, first = set(), 0, ""
    for name in names:
        first = first or name
        folder, file = os.path.split(os.path.join(root, name))
        if folder not in listed:
            listed[folder] = _listing(folder)
        if file in listed[folder]:
            found += 1
        else:
            missing.add(name)
    if missing and not found:
        raise DataError(
            f"none of the {len(missing)} annotated frames is below {root}, {first} being the first; "
            "give the folder that holds them"
        )
    return missing


def _listing(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()
