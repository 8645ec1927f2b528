"""Result sinks: videos, JSON lines, id masks, windows and results files."""

__all__: list[str] = []
