"""Benchmarks; run one from the repository root: `python -m benchmarks.cpu.latency`."""
