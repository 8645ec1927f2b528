"""Which model is evaluated, and how it is opened: a bundle, or a checkpoint in PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from idol_deploy.config import IdolConfig
from idol_deploy.evaluate.shards import Shard
from idol_runtime.backends.base import GraphChoice, check_threads
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.config import StreamConfig, override
from idol_runtime.errors import ConfigError
from idol_runtime.optional import import_optional
from idol_runtime.pipeline import Pipeline

if TYPE_CHECKING:
    from idol_deploy.model.idol import Idol

__all__ = ["ModelChoice", "load_model", "open_pipeline", "stream_config"]


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and how it runs.

    Attributes:
        bundle: an exported bundle; else
        weights: a checkpoint, of
        preset: this preset, or the `settings.json` of the run that trained it; run in PyTorch.
        backend: of a bundle.
        graph: of a bundle.
        device: `cpu`, `cuda` or `cuda:N`; of several processes with `cuda`, each takes its own.
        threads: CPU threads of a bundle's backend.
        fit: letterbox frames that a bundle was not made for.
        settings: changes to thresholds and association.
    """

    bundle: Path | None = None
    weights: Path | None = None
    preset: str | None = None
    backend: str = "auto"
    graph: GraphChoice = "fp32"
    device: str = "cpu"
    threads: int | None = None
    fit: bool = False
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.bundle is None) == (self.weights is None):
            raise ConfigError("nothing to run, or two things: give a bundle, or --weights with --preset")
        if (self.weights is None) != (self.preset is None):
            raise ConfigError("--weights and --preset go together: the preset says what the weights are")
        check_threads(self.threads)
        if self.bundle is None and (self.backend, self.graph) != ("auto", "fp32"):
            raise ConfigError("--backend and --graph are of a bundle; leave them out, or give --bundle")

    @property
    def file(self) -> Path:
        """What the results come from."""
        file = self.bundle or self.weights
        assert file is not None
        return file


def stream_config(model: ModelChoice) -> StreamConfig:
    """What the model's pipeline is to obey, its settings among it; loads no network.

    Raises:
        ConfigError: a setting or preset that cannot be.
        DataError: the preset's file cannot be read, or holds no settings.
        BundleError: the bundle is broken, tampered with, or of a newer schema.
    """
    if model.bundle is not None:
        with Bundle.open(model.bundle) as bundle:
            return override(bundle.manifest.stream, model.settings)
    from idol_deploy.settings import network_config

    assert model.preset is not None
    return override(network_config(model.preset).stream, model.settings)


def open_pipeline(model: ModelChoice, shard: Shard | None = None) -> Pipeline:
    """The model, ready for frames.

    Args:
        model: which, and how it runs.
        shard: which of several processes this is, so that each takes its own CUDA device.

    Raises:
        ConfigError: a setting, preset or device that cannot be.
        CheckpointError, BundleError, BackendError: the model cannot be read or run; see `Pipeline.open`.
        MissingDependencyError: what runs it is not installed.
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
    from idol_deploy.settings import network_config

    assert model.preset is not None
    assert model.weights is not None
    config = network_config(model.preset)
    torch = import_optional("torch", "torch", "train", "running a checkpoint")
    from idol_deploy.backend import TorchBackend

    if model.threads:
        torch.set_num_threads(model.threads)
    return Pipeline(TorchBackend(load_model(model.weights, config, device)), stream_config(model))


def load_model(weights: Path | None, config: IdolConfig, device: str) -> "Idol":
    """The network in PyTorch, in evaluation mode on a device; without a checkpoint, with fresh weights.

    Raises:
        CheckpointError: the file is not of this network.
        ConfigError: PyTorch cannot use the device.
    """
    torch = import_optional("torch", "torch", "train", "running a checkpoint")
    from idol_deploy.model.idol import Idol
    from idol_deploy.torch_device import torch_device
    from idol_deploy.weights.checkpoint import load_checkpoint

    where = torch_device(device)
    if weights is None:
        torch.manual_seed(0)
    network = Idol(config).eval() if weights is None else load_checkpoint(weights, config)
    try:
        return network.to(where)
    except RuntimeError as error:  # its memory is full
        raise ConfigError(f"PyTorch cannot use device {device}: {str(error).splitlines()[0]}") from error
