"""Faults of a data set: named, counted, and reported in one line per kind."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from idol_runtime.errors import DataError

__all__ = ["Fault", "FaultLog", "crowd", "frame_path", "missing_files", "unknown_id"]


@dataclass(frozen=True)
class Fault:
    """One item of a data set that cannot be used.

    Attributes:
        kind: key under which faults are counted, such as `missing frame`.
        where: video and frame, or annotation, that has the fault.
        detail: description of the fault and how to fix it.
        expected: True for an item that sound data sets have too, such as a crowd; a strict log counts it (default:
            False).
    """

    kind: str
    where: str
    detail: str
    expected: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}"


@dataclass
class FaultLog:
    """Number of faults of each kind, with the first of each.

    Attributes:
        strict: raise at the first fault instead of counting it (default: False).
        counts: number of faults by kind.
        first: first fault of each kind.
    """

    strict: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, Fault] = field(default_factory=dict)

    def add(self, fault: Fault) -> None:
        """Count a fault.

        Raises:
            DataError: the log is strict, and the fault is not an expected one.
        """
        if self.strict and not fault.expected:
            raise DataError(str(fault))
        self.counts[fault.kind] += 1
        self.first.setdefault(fault.kind, fault)

    def summary(self) -> Sequence[str]:
        """Return one line per kind of fault, the most frequent kind first; empty without faults."""
        return [f"{count} x {kind}, first {self.first[kind]}" for kind, count in self.counts.most_common()]


def unknown_id(kind: str, number: int, where: str) -> Fault:
    """Return the fault of an annotation that refers to a missing image, video or category.

    Args:
        kind: `image`, `video` or `category`.
        number: id that no entry of the file has.
        where: annotation with the fault.
    """
    why = f"there is no {kind} {number}; add it or remove the annotation"
    return Fault(f"unknown {kind}", where, why)


def crowd(where: str) -> Fault:
    """Return the fault of a crowd, which the published training leaves out.

    Args:
        where: annotation of the crowd.
    """
    why = "it is a crowd, a group annotated as one; set its iscrowd to 0 if it is one object (a brush mask)"
    return Fault("crowd", where, why, expected=True)


def frame_path(root: Path, name: str) -> Path:
    """Return the file of a frame; backslashes in its name are separators if the file exists that way."""
    path = root / name
    if "\\" in name and not path.exists():
        other = root / name.replace("\\", "/")
        return other if other.exists() else path
    return path


def missing_files(root: Path, names: Iterable[str]) -> set[str]:
    """Return the names that do not exist below a folder.

    Each folder is listed once, which is faster than one look-up per file.

    Raises:
        DataError: none of the files exists, so `root` must be the wrong folder.
    """
    paths = {name: os.path.split(frame_path(root, name)) for name in names}
    listings = {folder: _list_folder(folder) for folder in {folder for folder, _ in paths.values()}}
    missing = {name for name, (folder, file) in paths.items() if file not in listings[folder]}
    if missing and len(missing) == len(paths):
        raise DataError(
            f"none of the {len(missing)} annotated frames is below {root}, for example {next(iter(paths))}; "
            "give the folder that holds them"
        )
    return missing


def _list_folder(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()
