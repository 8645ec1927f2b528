"""The options of an export, and their checks before any long step."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from idol_deploy.config import IdolConfig
from idol_deploy.model.idol import Idol
from idol_deploy.weights.layout import published_state, weights_hash
from idol_export.graph.tracing import DEFAULT_OPSET, check_opset
from idol_export.precision.base import ReduceOptions
from idol_export.verify.clips import check_sources, size_text
from idol_runtime.bundle.bundle import Manifest
from idol_runtime.config import StreamConfig
from idol_runtime.errors import ConfigError

__all__ = ["ExportOptions", "check_options", "network_size", "require_same"]

_LARGEST_SIDE = 8192  # pixels; a mistyped frame size could fill the memory


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        frame_size: (H, W) of the source in pixels.
        portable: leave out the graph with our operator. It is also left out, with a note, if the operator's library for
            ONNX Runtime is not built, because the graph could not be verified.
        dynamic_batch: leave the number of frames free, instead of 1.
        opset: version of the ONNX operators.
        verify_source: video or images for the parity check; None: a generated video.
        verify_frames: number of its frames to compare.
        note: caption for annotated videos, for example `untrained weights`.
        store: storage of the weights in the file. `fp16` rounds matrices and kernels in the network before any
            comparison, and halves the file; the graphs still compute in fp32.
        reduce: reduced-precision graphs to add.
    """

    frame_size: tuple[int, int]
    portable: bool = False
    dynamic_batch: bool = False
    opset: int = DEFAULT_OPSET
    verify_source: str | None = None
    verify_frames: int = 4
    note: str = ""
    store: Literal["fp32", "fp16"] = "fp32"
    reduce: ReduceOptions = field(default_factory=ReduceOptions)

    def __post_init__(self) -> None:
        if not 1 <= min(self.frame_size) <= max(self.frame_size) <= _LARGEST_SIDE:
            raise ConfigError(
                f"frame size must be positive and at most {_LARGEST_SIDE} a side, got {self.frame_size[0]}x"
                f"{self.frame_size[1]}; pass HEIGHTxWIDTH, for example 720x1280"
            )
        check_opset(self.opset)
        if self.verify_frames < 1:
            raise ConfigError(f"--verify-frames must be at least 1, got {self.verify_frames}")


def network_size(config: IdolConfig, options: ExportOptions) -> tuple[int, int]:
    """Return (h, w) of the network input before padding.

    Raises:
        ConfigError: it is too small.
    """
    height, width = config.preprocessing.network_size(*options.frame_size)
    if min(height, width) < 32:
        raise ConfigError(
            f"network input {height}x{width} is too small, its sides must be 32 or more; use a larger --short-side"
        )
    return height, width


def check_options(config: IdolConfig, options: ExportOptions) -> None:
    """Check that the verification and calibration data exist and match the network input; errors of `check_sources`."""
    network_size(config, options)
    sources = {"verify": options.verify_source, "calibrate": options.reduce.calibrate}
    check_sources(config.preprocessing, options.frame_size, sources, options.reduce.annotations)


def require_same(
    path: str | Path, manifest: Manifest, model: Idol, config: IdolConfig, options: ExportOptions
) -> None:
    """Check that a network and the options are those of a bundle.

    Raises:
        ConfigError: the bundle has other weights, sizes or options.
    """
    for name, bundled, given in (
        ("preset", manifest.preset, config.name),
        ("frame size", size_text(manifest.frame_size), size_text(options.frame_size)),
        ("network input", size_text(manifest.network_size), size_text(network_size(config, options))),
        ("storage of the weights", manifest.storage, options.store),
        ("ONNX opset", manifest.versions["opset"], str(options.opset)),
        ("free batch size", manifest.dynamic_batch, options.dynamic_batch),
        ("note", repr(manifest.note), repr(options.note)),
        ("weights with SHA-256", manifest.weights_sha256, weights_hash(published_state(model))),
        ("classes", _classes(manifest.stream), _classes(config.stream)),
        ("stream configuration", manifest.stream, config.stream),
    ):
        if bundled != given:
            raise ConfigError(
                f"{path} has {name} {bundled}, got {given}; pass those of the bundle, or export a new one with --output"
            )


def _classes(stream: StreamConfig) -> str:
    return ", ".join(category.name for category in stream.categories)
