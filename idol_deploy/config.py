"""Configuration of a network, its training and its inference, and the presets (docs/idol.md §1). Imports no torch.

All configurations are frozen dataclasses, so a variant is `dataclasses.replace(preset("ytvis19_r50"), ...)`.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from idol_deploy.data.categories import COCO, COCO_IDS, OVIS, SYNTH, YTVIS_2019, YTVIS_2021, require_distinct
from idol_deploy.model.backbones.config import BackboneConfig, MobileNetConfig, ResNetConfig, SwinConfig
from idol_deploy.model.config import ModelConfig
from idol_deploy.objective.config import LossConfig
from idol_runtime.config import AssociationConfig, Category, Preprocessing, StreamConfig, VideoConfig
from idol_runtime.errors import ConfigError

__all__ = [
    "PRESETS",
    "BackboneConfig",
    "IdolConfig",
    "LossConfig",
    "MobileNetConfig",
    "ModelConfig",
    "ResNetConfig",
    "SwinConfig",
    "TrainConfig",
    "preset",
]


@dataclass(frozen=True)
class TrainConfig:
    """Training hyper-parameters (docs/idol.md §1, §5).

    Attributes:
        initial_weights: file name of the checkpoint that the run normally starts from; "" for none.
        min_sizes: short sides of frames to choose from, in pixels.
        max_size: largest long side, in pixels.
        same_size: use the same short side for both frames of a pair (published: `choice_by_clip`; else `choice`).
        same_flip: flip both frames of a pair or neither (published: `flip_by_clip`; else `horizontal`).
        crop_range: smallest and largest side of a random crop, in pixels.
        crop_short_sides: short sides before a crop to choose from, in pixels; still images only.
        crop_probability: share of pairs (of frames for still images) that are cropped.
        flip_probability: share of pairs or frames that are flipped.
        frames: number of frames per sample.
        frame_range: largest distance between the frames of a pair.
        batch_pairs: number of frame pairs per iteration, over all processes and accumulated batches.
        lr: learning rate of AdamW.
        backbone_lr_factor: factor of `lr` for the backbone.
        sampling_lr_factor: factor of `lr` for sampling offsets and reference points (Deformable DETR: 0.1).
        betas: betas of AdamW.
        eps: epsilon of AdamW.
        weight_decay: weight decay of AdamW, on every parameter.
        clip_norm: largest gradient norm of the whole model; larger gradients are scaled down to it.
        schedule: decay of the learning rate: `steps`, or half a `cosine` that reaches 0 at the end.
        steps: iterations after which the learning rate is multiplied by `gamma`.
        gamma: factor of the learning rate at each of `steps`.
        iterations: number of iterations.
        warmup_iterations: iterations of linear warm-up from `warmup_factor`.
        warmup_factor: factor of the learning rate at the start of the warm-up; 1.0 means no warm-up.
        checkpoint_period: iterations between snapshots.
        still_images: make pairs of two augmentations of one image (the COCO stage).
        drop_empty: leave out frames without annotations.
        both_directions: supervise both frames of a pair: the loss of twice the pairs from the same number of frames.
        fresh_embedding: initialise the embedding head at random, also if the initial weights contain one.
        loss: weights of the losses and training of the embedding.
    """

    initial_weights: str = "cocopretrain_R50.pth"
    min_sizes: tuple[int, ...] = (320, 352, 392, 416, 448, 480, 512, 544, 576, 608, 640)
    max_size: int = 768
    same_size: bool = True
    same_flip: bool = True
    crop_range: tuple[int, int] = (384, 600)
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    crop_probability: float = 0.5
    flip_probability: float = 0.5
    frames: int = 2
    frame_range: int = 10
    batch_pairs: int = 32
    lr: float = 1e-4
    backbone_lr_factor: float = 0.1
    sampling_lr_factor: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    clip_norm: float = 0.01
    schedule: Literal["steps", "cosine"] = "steps"
    steps: tuple[int, ...] = (8000,)
    gamma: float = 0.1
    iterations: int = 12000
    warmup_iterations: int = 10
    warmup_factor: float = 1.0
    checkpoint_period: int = 1000
    still_images: bool = False
    drop_empty: bool = False
    both_directions: bool = False
    fresh_embedding: bool = False
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        for name in ("batch_pairs", "lr", "clip_norm", "iterations", "checkpoint_period"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"train.{name} must be above 0, got {getattr(self, name)}")
        if self.schedule not in ("steps", "cosine"):
            raise ConfigError(f"train.schedule must be steps or cosine, got {self.schedule!r}")


@dataclass(frozen=True)
class IdolConfig:
    """Configuration of an IDOL network: model, classes, preprocessing, association and training.

    Attributes:
        name: name of the preset, or any other name.
        model: settings of the network.
        classes: class names in the order of the network's class indices.
        preprocessing: settings from a source frame to the network's input.
        association: settings from queries to tracks.
        video: settings from tracks to the results of a video.
        train: training hyper-parameters.
    """

    name: str
    model: ModelConfig
    classes: tuple[str, ...]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    association: AssociationConfig = field(default_factory=AssociationConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError("classes is empty; name at least one class")
        require_distinct(self.classes)

    @property
    def stream(self) -> StreamConfig:
        """The part of the configuration that the runtime needs and a bundle stores."""
        dataset_ids = COCO_IDS if self.classes == COCO else range(1, len(self.classes) + 1)
        categories = tuple(map(Category, self.classes, dataset_ids))
        return StreamConfig(categories, self.preprocessing, self.association, self.video)


def _like(
    base: IdolConfig, name: str, train: Mapping[str, Any] = MappingProxyType({}), **changes: Any
) -> IdolConfig:
    return replace(base, name=name, train=replace(base.train, **train), **changes)


_R101 = ModelConfig(backbone=ResNetConfig(depth=101))
_SWIN_L = ModelConfig(backbone=SwinConfig())
_FROM_R101 = {"initial_weights": "cocopretrain_R101.pth"}
_FROM_SWIN_L = {"initial_weights": "cocopretrain_SWINL.pth"}
# Stricter mask NMS and a higher new-track threshold.
_STRICT = AssociationConfig(mask_nms_iou=0.3, new_track_score=0.3)
_YTVIS = IdolConfig(name="ytvis19_r50", model=ModelConfig(), classes=YTVIS_2019)
# Occluded VIS: larger frames.
_OVIS = _like(
    _YTVIS,
    "ovis_r50",
    {"min_sizes": tuple(range(480, 801, 32)), "max_size": 1333, "batch_pairs": 16},
    classes=OVIS,
    preprocessing=Preprocessing(short_side=720),
    association=_STRICT,
)
# The pre-training stage on pairs of crops of still images.
_COCO = IdolConfig(
    name="coco_r50",
    model=ModelConfig(),
    classes=COCO,
    preprocessing=Preprocessing(short_side=640),
    train=TrainConfig(
        initial_weights="",
        max_size=1333,
        same_size=False,
        same_flip=False,
        lr=2e-4,
        steps=(22200, 44400),
        iterations=59200,
        checkpoint_period=3700,
        still_images=True,
        drop_empty=True,
    ),
)
# For small devices: MobileNetV2, 4.4 M parameters, frames of 240 pixels; not published. It has the thresholds of OVIS:
# most of its few queries find an instance, so duplicates must be suppressed.
_EDGE = IdolConfig(
    name="edge_ytvis19",
    model=ModelConfig(
        backbone=MobileNetConfig(),
        hidden_dim=128,
        queries=60,
        ffn_dim=512,
        encoder_layers=3,
        decoder_layers=3,
        dropout=0.0,
    ),
    classes=YTVIS_2019,
    preprocessing=Preprocessing(short_side=240, max_side=448),
    association=_STRICT,
    train=TrainConfig(
        initial_weights="mobilenet_v2.pt",
        min_sizes=tuple(range(192, 289, 16)),
        max_size=512,
        batch_pairs=8,
        lr=3e-4,
        backbone_lr_factor=0.25,
        sampling_lr_factor=0.3,
        clip_norm=0.1,
        schedule="cosine",
        warmup_iterations=100,
        warmup_factor=0.0,
        both_directions=True,
    ),
)
_COCO_SWIN_L = {"batch_pairs": 16, "steps": (59200, 118400), "iterations": 148000, "checkpoint_period": 2000}
# For the videos of `idol-deploy synth` (160x256, enlarged by 1.5); two CPU cores can train it. `scripts/train-model`
# starts with fewer than half of these pixels.
_SYNTH = {
    "min_sizes": (208, 224, 240, 256),
    "crop_range": (96, 160),
    "crop_probability": 0.1,
    "batch_pairs": 2,
    "lr": 2e-4,
    "iterations": 4200,
}
_ALL = (
    _YTVIS,
    _like(_YTVIS, "ytvis19_r101", _FROM_R101, model=_R101),
    _like(_YTVIS, "ytvis19_swin_l", _FROM_SWIN_L, model=_SWIN_L),
    _like(_YTVIS, "ytvis21_r50", classes=YTVIS_2021),
    _like(_YTVIS, "ytvis21_r101", _FROM_R101, classes=YTVIS_2021, model=_R101),
    _like(_YTVIS, "ytvis21_swin_l", _FROM_SWIN_L, classes=YTVIS_2021, model=_SWIN_L),
    _OVIS,
    _like(_OVIS, "ovis_swin_l", _FROM_SWIN_L, model=_SWIN_L),
    _COCO,
    _like(_COCO, "coco_r101", model=_R101),  # no settings were published, so these are those of ResNet-50
    _like(_COCO, "coco_swin_l", _COCO_SWIN_L, preprocessing=Preprocessing(short_side=800), model=_SWIN_L),
    _EDGE,
    _like(_EDGE, "edge_ytvis21", classes=YTVIS_2021),
    _like(_EDGE, "edge_ovis", classes=OVIS),
    _like(_EDGE, "edge_synth", _SYNTH, classes=SYNTH),
)
PRESETS: Mapping[str, IdolConfig] = MappingProxyType({config.name: config for config in _ALL})


def preset(name: str, test_size: Literal["published", "360p"] = "published") -> IdolConfig:
    """Return the configuration of a preset.

    Args:
        name: key of `PRESETS`, such as `ytvis19_r50`.
        test_size: `published` for the size of the released configuration, or `360p` for the short side of 360 pixels
            of the paper's results.

    Raises:
        ConfigError: the preset or the test size does not exist; the message names the nearest preset.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name.lower().replace("-", "_"), PRESETS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"no preset {name!r}; did you mean {near!r}? Presets: {', '.join(PRESETS)}")
    config = PRESETS[name]
    if test_size == "published":
        return config
    if test_size == "360p":
        return replace(config, preprocessing=replace(config.preprocessing, short_side=360))
    raise ConfigError(f"test size must be 'published' or '360p', got {test_size!r}")
