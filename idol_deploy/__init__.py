"""Network, presets, checkpoints and reference weights of IDOL."""

__all__: list[str] = []
