"""The latency benchmark: the same bundle and frames through every backend, in turns, stage by stage."""

__all__: list[str] = []
