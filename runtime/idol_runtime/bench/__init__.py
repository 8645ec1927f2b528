"""The latency benchmark: runs one bundle in every backend on the same frames, interleaved, stage by stage."""

__all__: list[str] = []
