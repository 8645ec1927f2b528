"""Arrays in the memory of a CUDA device, without PyTorch."""

import ctypes

import numpy as np
import pytest

from idol_plugins.errors import PluginError
from idol_plugins.memory import CudaMemory


def test_without_a_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(PluginError, match="install NVIDIA's"):
        CudaMemory()


@pytest.mark.gpu
def test_arrays_go_there_and_come_back() -> None:
    with CudaMemory() as memory, memory.scope():
        for array in (np.arange(7, dtype=np.float32).reshape(1, 7), np.empty((0, 3), np.uint16)):
            pointer = memory.put(array)
            assert pointer % 16 == 0
            np.testing.assert_array_equal(memory.get(pointer, array), array)
