"""Data sets: their categories, annotations and augmentations."""

__all__: list[str] = []
