"""The deformable-attention kernel as a plugin of several inference engines, with its build and its tests."""

__all__: list[str] = []
