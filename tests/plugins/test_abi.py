"""The interface's structures, and the messages of its statuses."""

import pytest

from idol_plugins.abi import DeviceArray, check, classic_call, refusal, type_code
from idol_plugins.errors import PluginError


def test_sizes_are_those_of_value() -> None:
    shapes = (5, 7, 2, 32), (5, 9, 2, 2, 4, 2), (5, 9, 2, 2, 4), (5, 9, 64)
    value, *arrays = (DeviceArray(16, shape, "float32") for shape in shapes)
    call = classic_call(value, ((2, 3), (1, 1)), *arrays)
    sizes = call.sizes
    numbers = sizes.images, sizes.tokens, sizes.queries, sizes.heads, sizes.width, sizes.levels, sizes.points
    assert numbers == (5, 7, 9, 2, 32, 2, 4)
    assert call.cells.tolist() == [[2, 3], [1, 1]]
    assert sizes.shapes == call.cells.ctypes.data


def test_every_status_says_what_to_do() -> None:
    check(0)
    for status in range(1, 6):
        with pytest.raises(PluginError, match="the deformable attention"):
            check(status)
    assert "status 77" in str(refusal(77))


def test_types_that_the_kernel_does_not_know() -> None:
    assert [type_code(name) for name in ("float32", "float16", "bfloat16")] == [0, 1, 2]
    with pytest.raises(PluginError, match="types"):
        type_code("float64")
