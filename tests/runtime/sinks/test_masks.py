"""Id masks: pixel values, the range of ids, and folders that are refused."""

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idol_runtime.errors import OutputError
from idol_runtime.events import Event
from idol_runtime.sinks.masks import MaskSink
from samples.results import SIZE, context, frame, nothing, result


def test_masks_hold_ids_with_the_higher_score_on_top(tmp_path: Path) -> None:
    with MaskSink(tmp_path / "masks", context()) as sink:
        sink.write(frame(0), result())
        sink.write(frame(12), nothing())
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["000000.png", "000012.png"]
    with Image.open(tmp_path / "masks" / "000000.png") as image:
        assert image.mode.startswith("I")
        identities = np.array(image)
    expected = np.zeros(SIZE, np.int64)
    expected[4:20, 4:30] = 1
    expected[10:30, 10:40] = 4
    np.testing.assert_array_equal(identities, expected)


@pytest.mark.parametrize(("track", "pixel"), [(65534, 65535), (65535, 1), (65536, 2)])
def test_ids_beyond_16_bit_start_again(tmp_path: Path, track: int, pixel: int) -> None:
    sink = MaskSink(tmp_path, context())
    sink.write(frame(), result(ids=(70, track)))
    with Image.open(tmp_path / "000000.png") as image:
        assert set(np.unique(np.array(image))) == {0, 71, pixel}
    assert ("modulo 65535" in sink.note) == (track >= 65535)


def test_masks_of_two_runs_do_not_mix(tmp_path: Path) -> None:
    for folder in ("masks", "masks-2", "masks-3"):
        with MaskSink(tmp_path / "masks", context()) as sink:
            sink.write(frame(), result())
        assert sink.path == tmp_path / folder
        assert (sink.complete, len(list(sink.path.iterdir()))) == (True, 1)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "masks").touch()
    with pytest.raises(OutputError, match="is a file"):
        MaskSink(tmp_path / "masks", context())


def test_masks_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(OutputError, match="No space left"), MaskSink(tmp_path / "masks", context()) as sink:
        sink.write(frame(), result())
    assert not list(tmp_path.iterdir())


def test_masks_of_a_live_source_survive_a_full_disk(
    small_disk: Path, fill: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idol_runtime.sinks.base.RETRY_S", 0.0)
    events: list[Event] = []
    with MaskSink(small_disk / "masks", context(live=True, tell=events.append)) as sink:
        sink.write(frame(0), result())
        ballast = fill()
        for i in range(1, 4):
            sink.write(frame(i), result())
        ballast.unlink()
        sink.write(frame(4), result())
    assert [event.kind for event in events] == ["output_stopped", "output_back"]
    assert sorted(path.name for path in sink.path.iterdir()) == ["000000.png", "000004.png"]
