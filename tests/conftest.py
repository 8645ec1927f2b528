"""Fixtures of the whole suite; imports no torch, so that the runtime's tests run without it."""

import ctypes.util
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

# The same examples for everyone; a busy machine is not a failure.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")

CLIPS = Path(__file__).parents[2] / "shared" / "data" / "clips"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _skip(items, "gpu", _no_gpu)
    _skip(items, "clips", _no_clips)


def _skip(items: list[pytest.Item], marker: str, why: Callable[[], str | None]) -> None:
    marked = [item for item in items if item.get_closest_marker(marker)]
    reason = why() if marked else None
    for item in marked if reason else []:
        item.add_marker(pytest.mark.skip(reason=reason))


def _no_clips() -> str | None:
    return None if CLIPS.is_dir() else "the demonstration clips are not in ../shared/data/clips"


def _no_gpu() -> str | None:
    """Why there is no CUDA device; asks torch where it is installed, the driver's library elsewhere."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        return None if torch.cuda.is_available() else "torch finds no CUDA device"
    return None if ctypes.util.find_library("cuda") else "no CUDA driver is installed"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of arrays that the published code made."""
    return Path(__file__).parent / "data" / "reference"


@pytest.fixture(scope="session")
def relative_error() -> Callable[[npt.ArrayLike, npt.ArrayLike], float]:
    """‖a − b‖ / ‖b‖ of two arrays of one shape, in float64."""

    def error(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))

    return error
