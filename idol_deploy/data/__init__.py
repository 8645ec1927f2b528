"""Data sets: categories, annotations, training pairs and augmentation."""

__all__: list[str] = []
