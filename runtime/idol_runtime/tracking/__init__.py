"""Post-processing: from network outputs to tracked instances."""

__all__: list[str] = []
