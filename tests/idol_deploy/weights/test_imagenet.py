from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from idol_deploy.config import preset
from idol_deploy.weights.checkpoint import load_checkpoint, start_from
from idol_deploy.weights.imagenet import imagenet_backbone, imagenet_network
from idol_deploy.weights.layout import BACKBONE
from idol_runtime.errors import CheckpointError

# Expansion, channels, blocks and stride: table 2 of Sandler et al. 2018.
ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
HERE = Path("weights.pt")
State = dict[str, Tensor]


def _conv_norm(state: State, conv: str, norm: str, shape: tuple[int, ...]) -> None:
    channels, fan = shape[0], torch.Size(shape[1:]).numel()
    state[f"{conv}.weight"] = torch.randn(shape) * (2 / fan) ** 0.5
    state[f"{norm}.weight"], state[f"{norm}.running_var"] = torch.rand(2, channels) + 0.5
    state[f"{norm}.bias"], state[f"{norm}.running_mean"] = torch.randn(2, channels) * 0.2
    state[f"{norm}.num_batches_tracked"] = torch.tensor(7)


def _mobilenet(nested: bool) -> State:
    """Return weights with the names of torchvision (`nested`) or of the paper's first ports to PyTorch."""
    torch.manual_seed(0)
    state: State = {}
    _conv_norm(state, "features.0.0", "features.0.1", (32, 3, 3, 3))
    inputs, number = 32, 1
    for expansion, outputs, blocks, _ in ROWS:
        for _ in range(blocks):
            width = inputs * expansion
            shapes = [(width, inputs, 1, 1), (width, 1, 3, 3), (outputs, width, 1, 1)][expansion == 1 :]
            for place, shape in enumerate(shapes):
                names = [f"{place}.0", f"{place}.1"] if nested else [f"{3 * place}", f"{3 * place + 1}"]
                if nested and place == len(shapes) - 1:
                    names = [f"{place}", f"{place + 1}"]
                _conv_norm(state, *(f"features.{number}.conv.{name}" for name in names), shape)
            inputs, number = outputs, number + 1
    _conv_norm(state, "features.18.0", "features.18.1", (1280, 320, 1, 1))
    return state | {"classifier.1.weight": torch.ones(1000, 1280), "classifier.1.bias": torch.ones(1000)}


def _classified(state: State, x: Tensor) -> list[Tensor]:
    """Compute res2 to res5 as the original does, from frames with ImageNet's normalisation."""
    convs = [key.removesuffix(".weight") for key, value in state.items() if value.ndim == 4]
    norms = [key.removesuffix(".running_mean") for key in state if key.endswith("running_mean")]
    layers = iter(zip(convs, norms, strict=True))

    def layer(x: Tensor, stride: int = 1) -> Tensor:
        conv, norm = next(layers)
        weight = state[f"{conv}.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=groups)
        return F.batch_norm(
            x, *(state[f"{norm}.{entry}"] for entry in ("running_mean", "running_var", "weight", "bias"))
        )

    x = F.relu6(layer(x, 2))
    features = []
    for expansion, _, blocks, stride in ROWS:
        for block in range(blocks):
            inner = F.relu6(layer(x)) if expansion > 1 else x
            narrow = layer(F.relu6(layer(inner, stride if block == 0 else 1)))
            x = x + narrow if block else narrow
        features.append(x)
    return [features[i] for i in (1, 2, 4, 6)]


@pytest.mark.parametrize("nested", [True, False])
def test_mobilenet_computes_what_it_did_on_imagenet(
    nested: bool, tmp_path: Path, relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    state, config = _mobilenet(nested), preset("edge_ytvis19")
    torch.save(state, tmp_path / "imagenet.pt")
    torch.manual_seed(1)
    model, fresh = start_from(tmp_path / "imagenet.pt", config)
    assert not any(key.startswith(BACKBONE) for key in fresh)
    rgb = torch.randint(0, 256, (1, 3, 65, 96)).float()
    mean, std = (
        torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    own = (rgb - torch.tensor(config.preprocessing.mean)[:, None, None]) / torch.tensor(
        config.preprocessing.std
    )[:, None, None]
    with torch.no_grad():
        found, wanted = model.backbone(own), _classified(state, (rgb / 255 - mean) / std)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (
            relative_error(ours, theirs) < 1e-4
        )  # float32; 50 layers pass rounding on, and no normalisation dampens it


def test_another_normalisation_is_made_up_for() -> None:
    """The first convolution's outputs are equal, except for its padding, which is the mean colour."""
    state, config = _mobilenet(nested=True), preset("edge_ytvis19")
    other = replace(config.preprocessing, mean=(0.0, 10.0, 20.0), std=(1.0, 2.0, 255.0))
    rgb = torch.randint(0, 256, (1, 3, 9, 9)).double()
    outputs = []
    for preprocessing in (config.preprocessing, other):
        weights = imagenet_backbone(state, replace(config, preprocessing=preprocessing), HERE)
        weight, bias = (weights[f"{BACKBONE}stem.conv.{kind}"].double() for kind in ("weight", "bias"))
        mean, std = (torch.tensor(v).double()[:, None, None] for v in (preprocessing.mean, preprocessing.std))
        outputs.append(F.conv2d((rgb - mean) / std, weight, bias))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


def _resnet(depth: int) -> State:
    """Return tensors with torchvision's names and shapes; every value is the tensor's number."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        shapes[f"{conv}.weight"] = shape
        shapes.update((f"{norm}.{e}", shape[:1]) for e in ("weight", "bias", "running_mean", "running_var"))

    add("conv1", "bn1", (64, 3, 7, 7))
    inputs = 64
    for layer, (blocks, width) in enumerate(
        zip((3, 4, 6 if depth == 50 else 23, 3), (64, 128, 256, 512), strict=True), start=1
    ):
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            add(f"{at}.conv1", f"{at}.bn1", (width, inputs, 1, 1))
            add(f"{at}.conv2", f"{at}.bn2", (width, width, 3, 3))
            add(f"{at}.conv3", f"{at}.bn3", (4 * width, width, 1, 1))
            if block == 0:
                add(f"{at}.downsample.0", f"{at}.downsample.1", (4 * width, inputs, 1, 1))
            inputs = 4 * width
    shapes |= {"fc.weight": (1000, 2048), "fc.bias": (1000,)}
    return {key: torch.tensor(float(i)).expand(shape) for i, (key, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_var", "stem.conv1.norm.running_var"),
        ("layer1.0.downsample.0.weight", "res2.0.shortcut.weight"),
        ("layer4.0.downsample.1.bias", "res5.0.shortcut.norm.bias"),
        ("layer3.5.bn2.weight", "res4.5.conv2.norm.weight"),
        ("layer4.2.conv3.weight", "res5.2.conv3.weight"),
    ],
)
def test_resnet_by_its_names(theirs: str, ours: str) -> None:
    state, config = _resnet(50), preset("ytvis19_r50")
    weights = imagenet_backbone(state, config, HERE)
    assert torch.equal(weights[BACKBONE + ours], state[theirs])
    # Detectron2's names are the published ones.
    again = {key[len(BACKBONE) :]: value for key, value in weights.items()} | {
        "stem.fc.weight": state["fc.weight"]
    }
    assert imagenet_network(again) == "ResNet"
    assert torch.equal(imagenet_backbone(again, config, HERE)[BACKBONE + ours], state[theirs])


def test_every_tensor_of_a_resnet_has_its_place() -> None:
    weights = imagenet_backbone(_resnet(101), preset("ytvis19_r101"), HERE)
    assert sorted(float(value.flatten()[0]) for value in weights.values()) == [
        *map(float, range(len(weights)))
    ]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ovis_swin_l", {}, "of a ResNet, but ovis_swin_l has a swin backbone"),
        ("ytvis19_r101", {}, r"has no tensor for the backbone's res4\.6\.conv1\.weight"),
        ("ytvis19_r50", {"layer3.6.conv1.weight": torch.ones(1)}, r"layer3\.6\.conv1\.weight has no place"),
        (
            "ytvis19_r50",
            {"conv1.weight": torch.ones(64, 1, 7, 7)},
            r"conv1\.weight is \[64, 1, 7, 7\] instead of",
        ),
    ],
)
def test_the_first_misfit_is_named(name: str, change: State, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        imagenet_backbone(_resnet(50) | change, preset(name), HERE)


def test_nothing_but_training_takes_such_a_file(tmp_path: Path) -> None:
    torch.save(
        {key: value.clone() for key, value in _mobilenet(nested=True).items()}, tmp_path / "imagenet.pt"
    )
    with pytest.raises(
        CheckpointError, match="ImageNet weights of a MobileNetV2; use them with `idol-deploy train"
    ):
        load_checkpoint(tmp_path / "imagenet.pt", preset("edge_ytvis19"))
