"""Fixtures: real file systems that are full."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def fill(small_disk: Path) -> Callable[[], Path]:
    """A function that fills the small disk, and returns the file that does."""

    def work() -> Path:
        ballast = small_disk / "ballast"
        with ballast.open("wb", 0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        return ballast

    return work
