"""Benchmarks and checks of a CUDA device."""
