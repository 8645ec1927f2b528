"""Export from PyTorch to a verified bundle: tracing, parity checks, reduced precisions, and engine builds."""

__all__: list[str] = []
