"""Reduced-precision graphs (fp16, bf16, int8): rewriting, calibration, search."""

__all__: list[str] = []
