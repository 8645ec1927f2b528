"""Training: data, graph, optimiser, one step, snapshots, log, and the loop that joins them; see `docs/training.md`."""

__all__: list[str] = []
