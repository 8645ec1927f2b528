"""Comparison of exported graphs with PyTorch: values, decisions, identities, annotation scores."""

__all__: list[str] = []
