"""Train, evaluate and read IDOL in PyTorch: network, presets, checkpoints and reference weights.

    from idol_deploy import load_checkpoint, preset

    model = load_checkpoint("ytvis19_r50.pth", preset("ytvis19_r50"))

Names are loaded when first used: importing this package does not import torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idol_deploy.config import IdolConfig, preset
    from idol_deploy.model.idol import Idol
    from idol_deploy.weights.checkpoint import load_checkpoint, save_checkpoint

    __version__: str

__all__ = ["Idol", "IdolConfig", "__version__", "load_checkpoint", "preset", "save_checkpoint"]

_HOMES = {
    "Idol": "idol_deploy.model.idol",
    "IdolConfig": "idol_deploy.config",
    "load_checkpoint": "idol_deploy.weights.checkpoint",
    "preset": "idol_deploy.config",
    "save_checkpoint": "idol_deploy.weights.checkpoint",
}

# Type checkers must not see this: they would believe any name to exist.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            value = version("idol-deploy")
        elif name in _HOMES:
            from importlib import import_module

            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
