"""Comparison of exported graphs with PyTorch: stages, decisions, identities, annotation scores."""

__all__: list[str] = []
