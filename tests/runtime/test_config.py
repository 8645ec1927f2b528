"""Tests of the configuration: invalid settings are refused by name; sizes are the published ones."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idol_runtime.config import AssociationConfig, Category, Preprocessing, StreamConfig, VideoConfig
from idol_runtime.errors import ConfigError

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "name",
    [
        "select_score",
        "box_nms_iou",
        "mask_nms_iou",
        "init_score",
        "new_track_score",
        "match_score",
        "momentum",
    ],
)
@pytest.mark.parametrize("value", [-0.01, 1.01, NAN, INF, -INF])
def test_association_shares(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"association\.{name} must lie between 0 and 1, got {value}"):
        AssociationConfig(**{name: value})
    AssociationConfig(**{name: 0.0})
    AssociationConfig(**{name: 1.0})


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        (AssociationConfig, {"memory_length": 0}, "memory_length must lie between 1 and 1000, got 0"),
        (AssociationConfig, {"memory_length": 1001}, "memory_length must lie between 1 and 1000, got 1001"),
        (AssociationConfig, {"memory_length": 10**12}, "memory_length must lie between 1 and 1000"),
        (AssociationConfig, {"max_age": 0}, "max_age"),
        (AssociationConfig, {"max_age": -3}, "max_age"),
        (AssociationConfig, {"max_tracks": 0}, "max_tracks must be at least 1, got 0"),
        (AssociationConfig, {"max_age_s": -0.1}, "max_age_s must not be negative, got -0.1"),
        (AssociationConfig, {"max_age_s": NAN}, "max_age_s must"),
        (AssociationConfig, {"max_age_s": INF}, "max_age_s must"),
        (AssociationConfig, {"tau": -0.1}, "tau must"),
        (AssociationConfig, {"tau": NAN}, "tau must"),
        (AssociationConfig, {"tau": INF}, "tau must"),
        (AssociationConfig, {"temporal": "last"}, "temporal must be one of published, paper"),
        (AssociationConfig, {"matching": "giou"}, "matching must be one of embedding, multi_cue, iou"),
        (VideoConfig, {"class_score": 1.5}, r"video\.class_score"),
        (VideoConfig, {"class_score": NAN}, r"video\.class_score"),
        (VideoConfig, {"temporal_score": "median"}, "temporal_score must be one of mean, max"),
        (Preprocessing, {"short_side": 0}, "preprocessing.short_side must lie between 1 and 65535, got 0"),
        (Preprocessing, {"short_side": -1}, "short_side must lie"),
        (Preprocessing, {"max_side": 0}, "max_side must lie between 1 and 1073741824, got 0"),
        (Preprocessing, {"size_divisor": 0}, "size_divisor must lie"),
        (Preprocessing, {"std": (1.0, 0.0, 1.0)}, "std must be positive"),
        (Preprocessing, {"std": (NAN, 1.0, 1.0)}, "std must be positive"),
        (Preprocessing, {"std": (1.0, NAN, 1.0)}, "std must be positive"),
        (Preprocessing, {"mean": (NAN, 1.0, 1.0)}, "mean must"),
        (Preprocessing, {"mean": (1.0, 1.0, INF)}, "mean must"),
    ],
    ids=str,
)
def test_values_that_cannot_be(kind: Callable[..., Any], changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        kind(**changes)


def test_settings_at_their_bounds() -> None:
    for length in (1, 1000):
        assert AssociationConfig(memory_length=length).memory_length == length
    assert AssociationConfig(max_age=10**12).max_age == 10**12, (
        "an age is compared, and nothing is made for it"
    )


def test_categories() -> None:
    with pytest.raises(ConfigError, match="at least one category"):
        StreamConfig(())
    with pytest.raises(ConfigError, match="share a data set id"):
        StreamConfig((Category("a", 1), Category("b", 1)))
    assert StreamConfig((Category("a", 2), Category("b", 1))).class_names == ("a", "b")


@pytest.mark.parametrize(
    ("settings", "frame", "expected"),
    [
        ({}, (360, 640), (480, 853)),
        ({}, (640, 360), (853, 480)),
        ({}, (480, 480), (480, 480)),
        ({}, (100, 1000), (133, 1333)),
        ({"short_side": 360}, (720, 1280), (360, 640)),
        ({"short_side": 720}, (1080, 1920), (720, 1280)),
        ({"short_side": 720}, (1080, 2000), (720, 1333)),
        ({"short_side": None}, (5, 7), (5, 7)),
        ({}, (1, 4000), (1, 1333)),
        ({}, (4000, 1), (1333, 1)),
    ],
    ids=str,
)
def test_network_size(settings: dict[str, Any], frame: tuple[int, int], expected: tuple[int, int]) -> None:
    assert Preprocessing(**settings).network_size(*frame) == expected


@given(height=st.integers(1, 4000), width=st.integers(1, 4000), short=st.integers(32, 1000))
def test_network_size_keeps_its_bounds(height: int, width: int, short: int) -> None:
    settings = Preprocessing(short_side=short)
    size = settings.network_size(height, width)
    assert max(size) <= settings.max_side
    assert min(size) <= short
    assert min(size) >= 1
    if max(size) < settings.max_side:
        assert min(size) == short


def test_padded_size() -> None:
    assert Preprocessing().padded_size(480, 853) == (480, 864)
    assert Preprocessing().padded_size(1, 33) == (32, 64)
    assert Preprocessing(size_divisor=1).padded_size(5, 7) == (5, 7)
