"""Inference backends: each runs the network of a bundle and returns the same six outputs."""

from idol_runtime.backends.base import Backend, GraphChoice, OpenOptions
from idol_runtime.backends.choice import open_backend

__all__ = ["Backend", "GraphChoice", "OpenOptions", "open_backend"]
