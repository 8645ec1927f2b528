import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

from idol_deploy.config import (
    PRESETS,
    IdolConfig,
    MobileNetConfig,
    ModelConfig,
    ResNetConfig,
    SwinConfig,
    TrainConfig,
    preset,
)
from idol_runtime.config import AssociationConfig, Preprocessing, VideoConfig
from idol_runtime.errors import ConfigError

# backbone, classes, test side, mask NMS, new track, batch, lr, steps, iterations, train sides, start
PUBLISHED = {
    "ytvis19_r50": (50, 40, 480, 0.5, 0.2, 32, 1e-4, (8000,), 12000, (320, 640, 768), "cocopretrain_R50.pth"),
    "ytvis19_r101": (
        *(101, 40, 480, 0.5, 0.2, 32, 1e-4, (8000,), 12000),
        *((320, 640, 768), "cocopretrain_R101.pth"),
    ),
    "ytvis19_swin_l": (
        *("swin", 40, 480, 0.5, 0.2, 32, 1e-4, (8000,), 12000),
        *((320, 640, 768), "cocopretrain_SWINL.pth"),
    ),
    "ovis_r50": (50, 25, 720, 0.3, 0.3, 16, 1e-4, (8000,), 12000, (480, 800, 1333), "cocopretrain_R50.pth"),
    "ovis_swin_l": (
        *("swin", 25, 720, 0.3, 0.3, 16, 1e-4, (8000,), 12000),
        *((480, 800, 1333), "cocopretrain_SWINL.pth"),
    ),
    "coco_r50": (50, 80, 640, 0.5, 0.2, 32, 2e-4, (22200, 44400), 59200, (320, 640, 1333), ""),
    "coco_swin_l": ("swin", 80, 800, 0.5, 0.2, 16, 2e-4, (59200, 118400), 148000, (320, 640, 1333), ""),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_values(name: str) -> None:
    config = preset(name)
    backbone = config.model.backbone
    train = config.train
    assert (
        backbone.depth if isinstance(backbone, ResNetConfig) else "swin",
        len(config.classes),
        config.preprocessing.short_side,
        config.association.mask_nms_iou,
        config.association.new_track_score,
        train.batch_pairs,
        train.lr,
        train.steps,
        train.iterations,
        (train.min_sizes[0], train.min_sizes[-1], train.max_size),
        train.initial_weights,
    ) == PUBLISHED[name]


EDGE = tuple(name for name in PRESETS if name.startswith("edge_"))


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in EDGE])
def test_what_all_published_presets_share(name: str) -> None:
    config = preset(name)
    assert config.name == name
    assert replace(config.model, backbone=ResNetConfig()) == ModelConfig()
    assert len(config.train.min_sizes) == 11
    assert config.train.crop_range == (384, 600)
    assert config.video == VideoConfig()
    association = replace(config.association, mask_nms_iou=0.5, new_track_score=0.2)
    assert association == AssociationConfig()
    assert replace(config.preprocessing, short_side=480) == Preprocessing()


@pytest.mark.parametrize("backbone", ["r50", "r101", "swin_l"])
def test_youtube_vis_2021_differs_in_its_classes_alone(backbone: str) -> None:
    old, new = preset(f"ytvis19_{backbone}"), preset(f"ytvis21_{backbone}")
    assert replace(new, name=old.name, classes=old.classes) == old
    assert new.classes != old.classes


def test_only_the_coco_stage_pairs_still_images() -> None:
    still = {name for name in PRESETS if preset(name).train.still_images}
    assert still == {"coco_r50", "coco_r101", "coco_swin_l"}
    for name in PRESETS:
        train = preset(name).train
        assert train.same_flip == train.same_size == (not train.still_images)
        assert train.drop_empty == train.still_images


def test_the_edge_presets_are_one_network() -> None:
    first, *others = map(preset, EDGE)
    assert [len(config.classes) for config in (first, *others)] == [40, 40, 25, 8]
    assert isinstance(first.model.backbone, MobileNetConfig)
    assert (first.model.hidden_dim, first.model.queries, first.model.ffn_dim) == (128, 60, 512)
    *others, synthetic = others
    for config in others:
        assert replace(config, name=first.name, classes=first.classes) == first
    assert replace(synthetic, name=first.name, classes=first.classes, train=first.train) == first


def test_channels_of_the_backbones() -> None:
    assert SwinConfig().channels == (192, 384, 768, 1536)
    assert ResNetConfig().channels == (256, 512, 1024, 2048)
    assert MobileNetConfig().channels == (24, 32, 96, 320)


def test_the_paper_s_test_size_is_an_option() -> None:
    config = preset("ytvis19_r50", test_size="360p")
    assert config.preprocessing == replace(Preprocessing(), short_side=360)
    with pytest.raises(ConfigError, match="'published' or '360p'"):
        preset("ytvis19_r50", test_size="480p")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("ytvis19_r5O", "ytvis19_r50"), ("OVIS-R50", "ovis_r50"), ("coco_swin", "coco_swin_l")],
)
def test_an_unknown_preset_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{near}'.*ovis_swin_l"):
        preset(wrong)


def test_configurations_are_values() -> None:
    config = preset("ytvis19_r50")
    assert replace(config) == config
    assert hash(replace(config)) == hash(config)
    with pytest.raises(FrozenInstanceError):
        config.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "build",
    [
        lambda: ResNetConfig(depth=34),  # type: ignore[arg-type]
        lambda: ResNetConfig(frozen_stages=6),
        lambda: MobileNetConfig(frozen_stages=-1),
        lambda: TrainConfig(schedule="linear"),  # type: ignore[arg-type]
        lambda: SwinConfig(heads=(5, 6, 7, 8)),
        lambda: SwinConfig(heads=(0, 6, 7, 8)),
        lambda: SwinConfig(drop_path=1.0),
        lambda: ModelConfig(heads=0),
        lambda: ModelConfig(hidden_dim=100),
        lambda: ModelConfig(levels=3),
        lambda: ModelConfig(queries=0),
        lambda: ModelConfig(dropout=-0.1),
        lambda: IdolConfig(name="x", model=ModelConfig(), classes=()),
        lambda: IdolConfig(name="x", model=ModelConfig(), classes=("Giant panda", "giant_panda")),
    ],
)
def test_an_impossible_configuration_is_refused(build: object) -> None:
    assert callable(build)
    with pytest.raises(ConfigError):
        build()


def test_configuration_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import idol_deploy.config as c; c.preset('ovis_r50')"
    subprocess.run([sys.executable, "-c", code], check=True)
