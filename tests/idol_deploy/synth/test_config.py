import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idol_deploy.synth.config import PRESETS, SynthConfig, override_synth, synth_preset
from idol_runtime.errors import ConfigError


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_can_be_written_and_read(name: str) -> None:
    config = synth_preset(name)
    changes = [
        f"{key}={_text(value) if key != 'size' else 'x'.join(map(str, value))}"
        for key, value in dataclasses.asdict(config).items()
    ]
    assert override_synth(SynthConfig(), changes) == config


@given(st.sampled_from(["look_alikes", "difference", "blur", "lighting"]), st.floats(-1, 2))
def test_a_share_lies_between_0_and_1(name: str, value: float) -> None:
    if 0 <= value <= 1:
        assert getattr(dataclasses.replace(SynthConfig(), **{name: value}), name) == value
    else:
        with pytest.raises(ConfigError, match=f"{name} must lie between 0 and 1"):
            dataclasses.replace(SynthConfig(), **{name: value})


def test_changes_count_together() -> None:
    changed = override_synth(synth_preset("hard"), ["leave=0.9", "hide=0", "cross=0", "lurk=0.1"])
    assert (changed.leave, changed.lurk) == (0.9, 0.1)


@given(st.tuples(*[st.floats(0, 1)] * 4))
def test_moves_share_one_whole(shares: tuple[float, ...]) -> None:
    names = ("cross", "hide", "leave", "lurk")
    changes = dict(zip(names, shares, strict=True))
    if sum(changes[name] for name in names) <= 1:
        dataclasses.replace(SynthConfig(), **changes)
    else:
        with pytest.raises(ConfigError, match="a sum of 1"):
            dataclasses.replace(SynthConfig(), **changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("frames", "KEY=VALUE"),
        ("frame=3", "unknown key .frame.; choose one of frames, size"),
        ("frames=many", "frames takes a whole number"),
        ("frames=0", "between 1 and"),
        ("vanish=9,2", "the lower first"),
        ("vanish=0,2", "between 1 and"),
        ("instances=4", "instances takes 2 whole numbers separated by commas"),
        ("instances=4,300", r"between 1 and 30, the lower first, got \(4, 300\)"),
        ("size=40x200", "at least 48x48"),
        ("size=64x800", "at most four short sides, got 64x800"),
        ("camera_jumps=11", "between 0 and 10"),
        ("noise=-1", "between 0 and 50"),
    ],
)
def test_what_cannot_be(change: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        override_synth(SynthConfig(), [change])


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match="take one of easy, standard, hard"):
        synth_preset("simple")
