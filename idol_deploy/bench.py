"""Benchmark rows of PyTorch: eager and with `torch.compile`."""

from dataclasses import dataclass, replace
from pathlib import Path

from idol_deploy.config import IdolConfig
from idol_runtime.backends import Backend
from idol_runtime.bench.rows import BenchRow
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.errors import CheckpointError
from idol_runtime.optional import import_optional

__all__ = ["TorchRow", "torch_rows"]


@dataclass(frozen=True)
class TorchRow:
    """Settings of a PyTorch row; the process that measures the row opens it.

    Attributes:
        bundle: bundle whose weights and preprocessing the row must match.
        weights: checkpoint of the network.
        config: configuration of the network.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: number of CPU threads; None for PyTorch's default.
        compiled: compile the network without its geometry with `torch.compile`, as one graph with frozen weights.
    """

    bundle: Path
    weights: Path
    config: IdolConfig
    device: str = "cpu"
    threads: int | None = None
    compiled: bool = False

    def open(self) -> Backend:
        """Open the network with its deformable attention in plain PyTorch, not as compiled operator.

        Raises:
            CheckpointError: the checkpoint does not fit, or the bundle was exported from other weights.
            ConfigError: PyTorch cannot use the device.
        """
        torch = import_optional("torch", "torch", "export", "measuring PyTorch")
        from idol_deploy.backend import TorchBackend
        from idol_deploy.evaluate.model import load_model
        from idol_deploy.weights.half import with_half_weights
        from idol_deploy.weights.layout import published_state, weights_hash

        with Bundle.open(self.bundle) as bundle:
            manifest = bundle.manifest
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        model = load_model(self.weights, self.config, self.device)
        if manifest.storage == "fp16":
            model = with_half_weights(model)
        if weights_hash(published_state(model)) != manifest.weights_sha256:
            raise CheckpointError(
                f"{self.weights} does not hold the weights that {self.bundle} was exported from; pass these, or omit "
                "--weights"
            )
        model.config = replace(model.config, preprocessing=manifest.stream.preprocessing)
        if self.compiled:
            import torch._inductor.config as inductor

            inductor.freezing = True
            compiled = torch.compile(model.forward_with_geometry, fullgraph=True, dynamic=False)
            model.forward_with_geometry = compiled  # type: ignore[method-assign]
        return TorchBackend(model, manifest.network_size)


def torch_rows(row: TorchRow) -> list[BenchRow]:
    """Return a row of eager PyTorch and, if `compiled` is set, a row of `torch.compile`."""
    rows = [BenchRow("pytorch, eager", replace(row, compiled=False).open, required=True)]
    if row.compiled:
        rows.append(BenchRow("pytorch, compile", row.open))
    return rows
