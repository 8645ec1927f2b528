"""Weight files: checkpoints, their layouts, ImageNet backbones, reproducible reference weights."""

__all__: list[str] = []
