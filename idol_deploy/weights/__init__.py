"""Weight files: checkpoints and their layout, ImageNet weights, reference weights."""

__all__: list[str] = []
