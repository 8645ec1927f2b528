"""Multi-scale deformable attention as a plugin of the inference engines, and what builds and loads it."""

__all__: list[str] = []
