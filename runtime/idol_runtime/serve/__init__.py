"""The live server: a process of its own that shows a run to browsers, programs and Prometheus."""

__all__: list[str] = []
