"""The graphs of a bundle: export adapter, tracing, our operator, and shared weights."""

__all__: list[str] = []
