"""The IDOL network in PyTorch: training, evaluation, presets and checkpoints.

    from idol_deploy import load_checkpoint, preset

    model = load_checkpoint("ytvis19_r50.pth", preset("ytvis19_r50"))

Names are imported at first use: importing this package does not import torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idol_deploy.config import IdolConfig, preset
    from idol_deploy.model.idol import Idol
    from idol_deploy.weights.checkpoint import load_checkpoint, save_checkpoint

    __version__: str

__all__ = ["Idol", "IdolConfig", "__version__", "load_checkpoint", "preset", "save_checkpoint"]

_MODULES = {
    "Idol": "idol_deploy.model.idol",
    "IdolConfig": "idol_deploy.config",
    "load_checkpoint": "idol_deploy.weights.checkpoint",
    "preset": "idol_deploy.config",
    "save_checkpoint": "idol_deploy.weights.checkpoint",
}

# Hidden from type checkers, which would otherwise accept any name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            value = version("idol-deploy")
        elif name in _MODULES:
            from importlib import import_module

            value = getattr(import_module(_MODULES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
