"""The IDOL network in PyTorch: training, evaluation, presets and checkpoints.

    from idol_deploy import load_checkpoint, preset

    model = load_checkpoint("ytvis19_r50.pth", preset("ytvis19_r50"))

Names are imported at first use: importing this package does not import torch.
"""

from typing import TYPE_CHECKING

from idol_runtime.optional import lazy_names

if TYPE_CHECKING:
    from idol_deploy.config import IdolConfig, preset
    from idol_deploy.model.idol import Idol
    from idol_deploy.weights.checkpoint import load_checkpoint, save_checkpoint

    __version__: str

__all__ = ["Idol", "IdolConfig", "__version__", "load_checkpoint", "preset", "save_checkpoint"]

# Hidden from type checkers, which would otherwise accept any name.
if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        globals(),
        {
            "idol_deploy.config": ("IdolConfig", "preset"),
            "idol_deploy.model.idol": ("Idol",),
            "idol_deploy.weights.checkpoint": ("load_checkpoint", "save_checkpoint"),
        },
    )
