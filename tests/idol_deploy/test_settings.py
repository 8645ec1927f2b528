import json
from dataclasses import replace

import pytest

from idol_deploy.config import PRESETS
from idol_deploy.settings import (
    RunConfig,
    TrainSettings,
    override_settings,
    settings_from_json,
    settings_to_json,
)
from idol_runtime.errors import ConfigError, DataError


@pytest.mark.parametrize("name", PRESETS)
def test_json_keeps_every_setting(name: str) -> None:
    settings = override_settings(TrainSettings(PRESETS[name]), ["data.holdout=3", "run.precision=bf16"])
    assert settings_from_json(settings_to_json(settings), "here") == settings


def test_changes_reach_their_section() -> None:
    changes = [
        "train.lr=2e-4",
        "train.steps=10,20",
        "loss.selection=iou",
        "model.queries=9",
        "run.compile=true",
    ]
    settings = override_settings(
        TrainSettings(PRESETS["ytvis19_r50"]), [*changes, "backbone.depth=101", "data.holdout=none"]
    )
    assert settings.network.train.lr == 2e-4
    assert settings.network.train.steps == (10, 20)
    assert settings.network.train.loss.selection == "iou"
    assert settings.network.model.queries == 9
    assert settings.network.model.backbone.channels == (256, 512, 1024, 2048)
    assert settings.run.compile
    assert settings.data.holdout is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lr=1", "write SECTION.KEY=VALUE"),
        ("nothing.lr=1", "a section of model, backbone"),
        ("train.speed=1", "unknown key 'speed'; choose one of initial_weights"),
        ("model.backbone=resnet", "unknown key 'backbone'"),
        ("train.lr=fast", "lr takes a number"),
        ("run.precision=int8", "precision takes one of fp32, bf16, fp16"),
        ("run.accumulate=0", "accumulate must be at least 1"),
        ("train.clip_norm=0", "clip_norm must be above 0"),
        ("train.iterations=0", "iterations must be above 0"),
        ("train.lr=nan", "lr takes a finite number"),
        ("train.betas=0.9,inf", "betas takes a finite number"),
        ("model.heads=0", r"model\.heads must lie between 1 and 4096, got 0"),
        ("model.queries=1000000000000", r"model\.queries must lie between 1 and 10000"),
        ("preprocessing.short_side=100000", r"preprocessing\.short_side must lie between 1 and 65535"),
    ],
)
def test_what_cannot_be_is_named(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override_settings(TrainSettings(PRESETS["ytvis19_r50"]), [change])


def test_settings_of_an_earlier_version_are_those_of_before() -> None:
    settings = TrainSettings(PRESETS["edge_synth"])
    contents = json.loads(settings_to_json(settings))
    del contents["network"]["train"]["fresh_embedding"]
    assert settings_from_json(json.dumps(contents), "settings.json") == settings


@pytest.mark.parametrize("name", PRESETS)
def test_backbone_without_its_tag_is_recognised(name: str) -> None:
    settings = TrainSettings(PRESETS[name])
    contents = json.loads(settings_to_json(settings))
    assert contents["network"]["model"]["backbone"].pop("kind") == settings.network.model.backbone.kind
    assert settings_from_json(json.dumps(contents), "settings.json") == settings


def test_unknown_backbone_is_named() -> None:
    contents = json.loads(settings_to_json(TrainSettings(PRESETS["ovis_r50"])))
    contents["network"]["model"]["backbone"]["kind"] = "vgg"
    with pytest.raises(DataError, match="of kind resnet, swin, mobilenet, got 'vgg'"):
        settings_from_json(json.dumps(contents), "settings.json")
    contents["network"]["model"]["backbone"] = "resnet50"
    with pytest.raises(DataError, match="got 'resnet50'"):
        settings_from_json(json.dumps(contents), "settings.json")


def test_settings_of_a_later_version_are_refused() -> None:
    contents = json.loads(settings_to_json(TrainSettings(PRESETS["ovis_swin_l"])))
    contents["run"]["speed"] = 1
    with pytest.raises(DataError, match=r"does not know: run\.speed; upgrade idol-deploy"):
        settings_from_json(json.dumps(contents), "settings.json")
    del contents["run"]["speed"], contents["network"]["name"]
    with pytest.raises(DataError, match=r"missing required field `name` - at `\$\.network`"):
        settings_from_json(json.dumps(contents), "settings.json")
    with pytest.raises(DataError, match="holds no training settings"):
        settings_from_json("{", "settings.json")
    with pytest.raises(DataError, match=r"nested too deeply; pass a run's settings\.json"):
        settings_from_json("[" * 100_000, "settings.json")


def test_pairs_are_shared_equally() -> None:
    settings = TrainSettings(PRESETS["ytvis19_r50"], run=RunConfig(accumulate=2))
    assert settings.pairs_per_batch(4) == 4
    with pytest.raises(ConfigError, match="a multiple of 6"):
        settings.pairs_per_batch(3)
    few = replace(settings.network.train, batch_pairs=1)
    with pytest.raises(ConfigError, match="a multiple of 2"):
        replace(settings, network=replace(settings.network, train=few)).pairs_per_batch(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 0}, "embed_dim must lie between 1 and 1024"),
        ({"window": 10**9}, "window between 1 and 64"),
        ({"depths": (2, 2, 10**9, 2)}, "depths must lie between 1 and 100"),
    ],
)
def test_sizes_of_a_backbone_are_bounded(changes: dict[str, object], message: str) -> None:
    contents = json.loads(settings_to_json(TrainSettings(PRESETS["ovis_swin_l"])))
    contents["network"]["model"]["backbone"] |= changes
    with pytest.raises(ConfigError, match=message):
        settings_from_json(json.dumps(contents), "settings.json")


def test_settings_with_a_byte_order_mark() -> None:
    settings = TrainSettings(PRESETS["edge_synth"])
    assert settings_from_json(settings_to_json(settings).encode("utf-16"), "settings.json") == settings
