"""Typed configuration of a network, its training and its inference, and the published presets.

A preset is a plain function that returns an `IdolConfig`; everything is a frozen dataclass, so a variant is
`dataclasses.replace(ytvis19_r50(), ...)`. Nothing here imports torch. Values: docs/idol.md §1.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

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
    "coco_r101",
    "coco_r50",
    "coco_swin_l",
    "edge_ovis",
    "edge_synth",
    "edge_ytvis19",
    "edge_ytvis21",
    "ovis_r50",
    "ovis_swin_l",
    "preset",
    "ytvis19_r101",
    "ytvis19_r50",
    "ytvis19_swin_l",
    "ytvis21_r101",
    "ytvis21_r50",
    "ytvis21_swin_l",
]


@dataclass(frozen=True)
class TrainConfig:
    """Training hyper-parameters (docs/idol.md §1, §5).

    Attributes:
        initial_weights: checkpoint that the run is meant to start from; "" where none is given.
        min_sizes: short sides to choose from, in pixels.
        max_size: bound on the long side, in pixels.
        same_size: the frames of a pair share their short side (`choice_by_clip`; else `choice`).
        same_flip: the frames of a pair share their horizontal flip (`flip_by_clip`; else `horizontal`).
        crop_range: bounds of a random crop's sides, in pixels.
        crop_short_sides: short sides before a crop, in pixels; of still images alone.
        crop_probability: share of pairs (of still images: of frames) that are cropped.
        flip_probability: share that is flipped.
        frames: frames per sample.
        frame_range: the second frame lies at most this many frames from the first.
        batch_pairs: frame pairs per iteration, over all devices.
        lr: learning rate of AdamW.
        backbone_lr_factor: multiplies `lr` for the backbone.
        sampling_lr_factor: multiplies `lr` for sampling offsets and reference points (Deformable DETR: 0.1).
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of AdamW, on every parameter.
        clip_norm: bound on the gradient norm of the whole model.
        schedule: the learning rate falls in `steps`, or by half a cosine to 0 at the end.
        steps: iterations after which the learning rate is multiplied by `gamma`.
        gamma: see `steps`.
        iterations: length of the run.
        warmup_iterations: iterations of linear warm-up from `warmup_factor`.
        warmup_factor: 1.0 means no warm-up.
        checkpoint_period: iterations between checkpoints.
        still_images: make pairs of two augmentations of one image (the COCO stage).
        drop_empty: leave out frames without annotations.
        both_directions: learn from the second frame of a pair as from the first: what twice the pairs would teach, with
            as many frames through the network.
        fresh_embedding: draw the embedding head anew, whatever the weights to start from have: what it learns then
            owes nothing to how it was trained before.
        loss: weights of the losses, and how the embedding is trained.
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
    """Everything that makes one IDOL: network, classes, input, association and training.

    Attributes:
        name: the preset's name, or one of your own.
        model: the network.
        classes: class names; index = the network's class index.
        preprocessing: from a source frame to the network's input.
        association: from queries to tracks.
        video: from tracks to a video's results.
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
            raise ConfigError("a configuration needs at least one class name")
        require_distinct(self.classes)

    @property
    def stream(self) -> StreamConfig:
        """What the runtime needs of this configuration; the part of it that a bundle carries."""
        dataset_ids = COCO_IDS if self.classes == COCO else range(1, len(self.classes) + 1)
        categories = tuple(map(Category, self.classes, dataset_ids))
        return StreamConfig(categories, self.preprocessing, self.association, self.video)


_R50 = ModelConfig(backbone=ResNetConfig(depth=50))
_R101 = ModelConfig(backbone=ResNetConfig(depth=101))
_SWIN_L = ModelConfig(backbone=SwinConfig())
_EDGE = ModelConfig(
    backbone=MobileNetConfig(),
    hidden_dim=128,
    queries=60,
    ffn_dim=512,
    encoder_layers=3,
    decoder_layers=3,
    dropout=0.0,
)
_OVIS_SIZES = tuple(range(480, 801, 32))


def _start(config: IdolConfig, weights: str) -> IdolConfig:
    return replace(config, train=replace(config.train, initial_weights=weights))


def ytvis19_r50() -> IdolConfig:
    """YouTube-VIS 2019, ResNet-50."""
    return IdolConfig(name="ytvis19_r50", model=_R50, classes=YTVIS_2019)


def ytvis19_r101() -> IdolConfig:
    """YouTube-VIS 2019, ResNet-101."""
    return _start(replace(ytvis19_r50(), name="ytvis19_r101", model=_R101), "cocopretrain_R101.pth")


def ytvis19_swin_l() -> IdolConfig:
    """YouTube-VIS 2019, Swin-L."""
    return _start(replace(ytvis19_r50(), name="ytvis19_swin_l", model=_SWIN_L), "cocopretrain_SWINL.pth")


def ytvis21_r50() -> IdolConfig:
    """YouTube-VIS 2021, ResNet-50; differs from 2019 in its classes alone."""
    return replace(ytvis19_r50(), name="ytvis21_r50", classes=YTVIS_2021)


def ytvis21_r101() -> IdolConfig:
    """YouTube-VIS 2021, ResNet-101."""
    return replace(ytvis19_r101(), name="ytvis21_r101", classes=YTVIS_2021)


def ytvis21_swin_l() -> IdolConfig:
    """YouTube-VIS 2021, Swin-L."""
    return replace(ytvis19_swin_l(), name="ytvis21_swin_l", classes=YTVIS_2021)


def ovis_r50() -> IdolConfig:
    """Occluded VIS, ResNet-50: larger frames, stricter mask NMS and new-track threshold."""
    return IdolConfig(
        name="ovis_r50",
        model=_R50,
        classes=OVIS,
        preprocessing=Preprocessing(short_side=720),
        association=AssociationConfig(mask_nms_iou=0.3, new_track_score=0.3),
        train=TrainConfig(min_sizes=_OVIS_SIZES, max_size=1333, batch_pairs=16),
    )


def ovis_swin_l() -> IdolConfig:
    """Occluded VIS, Swin-L."""
    return _start(replace(ovis_r50(), name="ovis_swin_l", model=_SWIN_L), "cocopretrain_SWINL.pth")


def coco_r50() -> IdolConfig:
    """The pre-training stage on pairs made of COCO images, ResNet-50."""
    train = TrainConfig(
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
    )
    return IdolConfig(
        name="coco_r50",
        model=_R50,
        classes=COCO,
        preprocessing=Preprocessing(short_side=640),
        train=train,
    )


def coco_r101() -> IdolConfig:
    """The COCO stage, ResNet-101; no settings were published, so those of ResNet-50."""
    return replace(coco_r50(), name="coco_r101", model=_R101)


def coco_swin_l() -> IdolConfig:
    """The COCO stage, Swin-L."""
    base = coco_r50()
    return replace(
        base,
        name="coco_swin_l",
        model=_SWIN_L,
        preprocessing=Preprocessing(short_side=800),
        train=replace(
            base.train, batch_pairs=16, steps=(59200, 118400), iterations=148000, checkpoint_period=2000
        ),
    )


def edge_ytvis19() -> IdolConfig:
    """YouTube-VIS 2019 for small devices: MobileNetV2, 4.4 M parameters, frames of 240 pixels; not published.

    Few queries, most of which find something: the OVIS thresholds keep their doubles out.
    """
    train = TrainConfig(
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
    )
    return IdolConfig(
        name="edge_ytvis19",
        model=_EDGE,
        classes=YTVIS_2019,
        preprocessing=Preprocessing(short_side=240, max_side=448),
        association=AssociationConfig(mask_nms_iou=0.3, new_track_score=0.3),
        train=train,
    )


def edge_ytvis21() -> IdolConfig:
    """YouTube-VIS 2021 for small devices; differs from 2019 in its classes alone."""
    return replace(edge_ytvis19(), name="edge_ytvis21", classes=YTVIS_2021)


def edge_ovis() -> IdolConfig:
    """Occluded VIS for small devices; differs from YouTube-VIS in its classes alone."""
    return replace(edge_ytvis19(), name="edge_ovis", classes=OVIS)


def edge_synth() -> IdolConfig:
    """The videos of `idol-deploy synth`, 160x256, seen at one and a half times their size: two cores can train it.

    `scripts/train-model` begins with less than half of these pixels.
    """
    base = edge_ytvis19()
    return replace(
        base,
        name="edge_synth",
        classes=SYNTH,
        train=replace(
            base.train,
            min_sizes=(208, 224, 240, 256),
            crop_range=(96, 160),
            crop_probability=0.1,
            batch_pairs=2,
            lr=2e-4,
            iterations=4200,
        ),
    )


_BUILDERS = (
    *(ytvis19_r50, ytvis19_r101, ytvis19_swin_l, ytvis21_r50, ytvis21_r101, ytvis21_swin_l),
    *(ovis_r50, ovis_swin_l, coco_r50, coco_r101, coco_swin_l),
    *(edge_ytvis19, edge_ytvis21, edge_ovis, edge_synth),
)
PRESETS: Mapping[str, Callable[[], IdolConfig]] = MappingProxyType(
    {builder.__name__: builder for builder in _BUILDERS}
)


def preset(name: str, test_size: Literal["published", "360p"] = "published") -> IdolConfig:
    """The preset of this name.

    Args:
        name: a key of `PRESETS`, such as `ytvis19_r50`.
        test_size: `published`, the released configuration's; `360p`, the short side of 360 pixels that the
            paper reports with.

    Raises:
        ConfigError: no such preset or test size; names the nearest.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name.lower().replace("-", "_"), PRESETS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"no preset {name!r}; did you mean {near!r}? Presets: {', '.join(PRESETS)}")
    config = PRESETS[name]()
    if test_size == "published":
        return config
    if test_size == "360p":
        return replace(config, preprocessing=replace(config.preprocessing, short_side=360))
    raise ConfigError(f"test size must be 'published' or '360p', got {test_size!r}")
