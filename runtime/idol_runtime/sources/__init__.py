"""Frame sources: videos, cameras, streams, image folders."""

__all__: list[str] = []
