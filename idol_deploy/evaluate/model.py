"""The model to evaluate, a bundle or a checkpoint in PyTorch, and its pipeline."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from idol_deploy.config import IdolConfig
from idol_deploy.evaluate.shards import Shard
from idol_runtime.backends.base import GraphChoice, check_threads
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.config import StreamConfig, override_stream
from idol_runtime.errors import ConfigError
from idol_runtime.optional import import_optional
from idol_runtime.pipeline import Pipeline

if TYPE_CHECKING:
    from idol_deploy.model.idol import Idol

__all__ = ["ModelChoice", "load_model", "open_pipeline", "stream_config"]


@dataclass(frozen=True)
class ModelChoice:
    """A bundle, or a checkpoint with its preset, and how to run it.

    Attributes:
        bundle: exported bundle; None for a checkpoint.
        weights: checkpoint to run in PyTorch; None for a bundle.
        preset: preset of the checkpoint, or `settings.json` of its training run.
        classes: file of class names that replace the preset's (default: none).
        backend: backend of a bundle (default: `auto`).
        graph: graph of a bundle (default: `fp32`).
        device: `cpu` (default), `cuda` or `cuda:N`; with `cuda` each of several processes takes its own device.
        threads: number of CPU threads (default: choice of the backend).
        fit: letterbox frames of another shape than a bundle was exported for (default: False).
        settings: changes of thresholds and association, as `KEY=VALUE` (default: none).
    """

    bundle: Path | None = None
    weights: Path | None = None
    preset: str | None = None
    classes: Path | None = None
    backend: str = "auto"
    graph: GraphChoice = "fp32"
    device: str = "cpu"
    threads: int | None = None
    fit: bool = False
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.bundle is None) == (self.weights is None):
            raise ConfigError(
                "expected one model, a bundle or a checkpoint; give --bundle, or --weights with --preset"
            )
        if (self.weights is None) != (self.preset is None):
            raise ConfigError(
                "--weights and --preset go together; give both, the preset describes the weights"
            )
        if self.classes is not None and self.weights is None:
            raise ConfigError(
                "--classes names the classes of a checkpoint; leave it out, a bundle has its own"
            )
        check_threads(self.threads)
        if self.bundle is None and (self.backend, self.graph) != ("auto", "fp32"):
            raise ConfigError(
                "--backend and --graph apply to a bundle only; leave them out, or give --bundle"
            )

    @property
    def network(self) -> IdolConfig | None:
        """Network configuration of the preset; None for a bundle."""
        from idol_deploy.settings import network_config

        return None if self.preset is None else network_config(self.preset, self.classes)

    @property
    def file(self) -> Path:
        """File of the model."""
        file = self.bundle or self.weights
        assert file is not None
        return file


def stream_config(model: ModelChoice) -> StreamConfig:
    """Return the stream configuration of a model with its settings applied, without loading the network.

    Raises:
        ConfigError: a setting or the preset is invalid.
        DataError: the preset file cannot be read or has no settings.
        BundleError: the bundle is broken, modified, or of a newer schema.
    """
    if model.bundle is not None:
        with Bundle.open(model.bundle) as bundle:
            return override_stream(bundle.manifest.stream, model.settings)
    assert model.network is not None
    return override_stream(model.network.stream, model.settings)


def open_pipeline(model: ModelChoice, shard: Shard | None = None) -> Pipeline:
    """Open the pipeline of a model.

    Args:
        model: model and how to run it.
        shard: share of this process, which selects its CUDA device (default: one process).

    Raises:
        ConfigError: a setting, the preset or the device is invalid.
        CheckpointError, BundleError, BackendError: the model cannot be read or run; see `Pipeline.open`.
        MissingDependencyError: PyTorch or the inference engine is not installed.
    """
    shard = shard or Shard()
    device = model.device
    if device == "cuda" and shard.count > 1:
        device = f"cuda:{shard.local_rank}"
    if model.bundle is not None:
        return Pipeline.open(
            model.bundle,
            backend=model.backend,
            device=device,
            threads=model.threads,
            graph=model.graph,
            fit=model.fit,
            settings=model.settings,
        )
    assert model.network is not None
    network = load_model(model.weights, model.network, device)
    from idol_deploy.backend import TorchBackend

    if model.threads:
        import torch

        torch.set_num_threads(model.threads)
    return Pipeline(TorchBackend(network), stream_config(model))


def load_model(weights: Path | None, config: IdolConfig, device: str) -> "Idol":
    """Load a network in PyTorch, in evaluation mode; with random weights if `weights` is None.

    Raises:
        CheckpointError: the file is no checkpoint of this network.
        ConfigError: PyTorch cannot use the device.
    """
    torch = import_optional("torch", "torch", "train", "running a checkpoint")
    from idol_deploy.backend import torch_device
    from idol_deploy.model.idol import Idol
    from idol_deploy.weights.checkpoint import load_checkpoint

    target = torch_device(device)
    if weights is None:
        torch.manual_seed(0)
    network = Idol(config).eval() if weights is None else load_checkpoint(weights, config)
    try:
        return network.to(target)
    except RuntimeError as error:  # its memory is full
        raise ConfigError(f"PyTorch cannot use device {device}: {str(error).splitlines()[0]}") from error
