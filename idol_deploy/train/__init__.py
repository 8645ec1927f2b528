"""Training: settings, optimiser, one step, checkpoints, log, and the loop that joins them; see `docs/training.md`."""

__all__: list[str] = []
