"""Benchmark rows of PyTorch: eager and with `torch.compile`; on a GPU also with our operator and in fp16."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from idol_deploy.config import IdolConfig
from idol_runtime.backends import Backend
from idol_runtime.backends.base import device_kind
from idol_runtime.bench.rows import BenchRow
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle
from idol_runtime.errors import CheckpointError
from idol_runtime.optional import import_optional

__all__ = ["TorchRow", "torch_rows"]

# Rounding every layer to fp16 changes the outputs by about 1e-2, to bf16 by 1e-1; a wrong network changes them by 1.
_FP16_TOLERANCE = 1e-1


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
        operator: compute deformable attention with the compiled operator, not in plain PyTorch.
        half: run under fp16 autocast; the weights stay fp32.
    """

    bundle: Path
    weights: Path
    config: IdolConfig
    device: str = "cpu"
    threads: int | None = None
    compiled: bool = False
    operator: bool = False
    half: bool = False

    def open(self) -> Backend:
        """Open the network; fp32 products are exact, without TF32.

        Raises:
            CheckpointError: the checkpoint does not fit, or the bundle was exported from other weights.
            ConfigError: PyTorch cannot use the device.
            PluginError: the operator's library for the device is not built.
        """
        torch = import_optional("torch", "torch", "export", "measuring PyTorch")
        from idol_deploy.backend import TorchBackend
        from idol_deploy.evaluate.model import load_model
        from idol_deploy.model.deform_op import use_operator
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
        if self.operator:
            use_operator(model, required=True)
        kind = device_kind(self.device)
        if kind == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # True by default, unlike that of matrix products
        if self.compiled:
            import torch._inductor.config as inductor

            inductor.freezing = True
            compiled = torch.compile(model.forward_with_geometry, fullgraph=True, dynamic=False)
            model.forward_with_geometry = compiled  # type: ignore[method-assign]
        if self.half:
            autocast = torch.autocast(kind, torch.float16)
            model.forward_with_geometry = autocast(model.forward_with_geometry)  # type: ignore[method-assign]
        return TorchBackend(model, manifest.network_size)


def torch_rows(row: TorchRow) -> list[BenchRow]:
    """Return a row of eager PyTorch and, if `compiled` is set, a row of `torch.compile`.

    On a GPU, each is also returned with our operator, and all of them also in fp16.
    """
    on_gpu = (False, True) if device_kind(row.device) == "cuda" else (False,)
    rows: list[BenchRow] = []
    for half, compiled, operator in itertools.product(on_gpu, (False, True)[: 1 + row.compiled], on_gpu):
        form = "compile" if compiled else "eager"
        name = f"pytorch, {form}{', operator' * operator}{', fp16' * half}"
        opened = replace(row, compiled=compiled, operator=operator, half=half)
        precision = "fp16" if half else "fp32"
        tolerances = dict.fromkeys(OUTPUT_NAMES, _FP16_TOLERANCE) if half else None
        rows.append(BenchRow(name, opened.open, precision, tolerances=tolerances, required=not rows))
    return rows
