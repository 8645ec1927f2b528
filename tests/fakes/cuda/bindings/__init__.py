"""A stand-in for cuda-python's bindings."""

__version__ = "0.fake"
