"""Inference backends: the same graph, the same six outputs, whatever runs them."""

from idol_runtime.backends.base import Backend, GraphChoice, open_backend

__all__ = ["Backend", "GraphChoice", "open_backend"]
