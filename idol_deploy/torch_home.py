"""The kernel's home in PyTorch, for `idol-deploy plugins info` and `selftest`; tells where there is no PyTorch."""

import importlib.metadata
import importlib.util
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_plugins.cases import Case
from idol_plugins.home import BUILD, Status, Variant
from idol_plugins.libraries import find_library

__all__ = ["TorchHome"]


class TorchHome:
    """The operator `idol_deploy::deform_attn`, on the CPU and on a CUDA device where its libraries are built."""

    name = "torch"
    title = "PyTorch operator"

    def status(self) -> Status:
        """Whether there is PyTorch, and a library for at least one of its devices."""
        if importlib.util.find_spec("torch") is None:
            return Status(why="torch is not installed", fix="pip install 'idol-deploy[train]'")
        from idol_deploy.model.deform_op import operator_problem

        devices = self._devices()
        if not devices:
            return Status(why=str(operator_problem("cpu")).partition("; ")[0], fix=BUILD)
        library = find_library(f"idol_deform_attn_{devices[0]}")
        return Status(library, f"torch {importlib.metadata.version('torch')}, {', '.join(devices)}")

    @staticmethod
    def _devices() -> list[str]:
        import torch

        from idol_deploy.model.deform_op import operator_problem

        here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        return [device for device in here if operator_problem(device) is None]

    def variants(self) -> list[Variant]:
        """One per device; the gradients are the tests' business."""
        return [Variant(device, partial(_run, device)) for device in self._devices()]


def _run(device: str, case: Case) -> NDArray[Any]:
    import torch

    from idol_deploy.model.deform_op import deform_attn

    value, merged, reference = (
        torch.from_numpy(array.copy()).to(device, getattr(torch, dtype))
        for array, dtype in (
            (case.value, case.dtype),
            (case.merged, case.merged_dtype),
            (case.reference, "float32"),
        )
    )
    with torch.no_grad():
        out = deform_attn(value, case.shapes, merged, reference)
    found: NDArray[Any] = out.float().cpu().numpy()
    return found.astype(np.float32, copy=False)
