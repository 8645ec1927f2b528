"""Result sinks: videos, JSON lines, id masks, windows, results files."""

__all__: list[str] = []
