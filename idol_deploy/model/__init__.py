"""The network: backbones, neck, transformer, heads and mask head."""

__all__: list[str] = []
