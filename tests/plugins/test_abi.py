"""What the interface's structures hold, and what its statuses say."""

import pytest

from idol_plugins.abi import check, make_cells, make_sizes, refusal, type_code
from idol_plugins.errors import PluginError


def test_sizes_are_those_of_value() -> None:
    cells = make_cells(((2, 3), (1, 1)))
    sizes = make_sizes((5, 7, 2, 32), 9, 2, 4, cells)
    found = sizes.images, sizes.tokens, sizes.queries, sizes.heads, sizes.width, sizes.levels, sizes.points
    assert found == (5, 7, 9, 2, 32, 2, 4)
    assert cells.tolist() == [[2, 3], [1, 1]]


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
