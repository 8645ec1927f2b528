"""A stand-in for cuda-python's bindings."""
