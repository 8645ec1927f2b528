"""A name says what is in the file."""

import pytest

from idol_runtime.errors import OutputError
from idol_runtime.suffixes import require_suffix


def test_a_name_that_says_what_is_in_the_file() -> None:
    assert require_suffix("a/B.MKV", "a video", ".mp4", ".mkv") == ".mkv"


@pytest.mark.parametrize("name", ["a.onnx", "a", ".mp4", "a.mp4.part"])
def test_a_name_that_says_something_else(name: str) -> None:
    with pytest.raises(
        OutputError, match=rf"^cannot write {name}: the name of a video ends in .mp4 .mkv; rename it$"
    ):
        require_suffix(name, "a video", ".mp4", ".mkv")
