"""The training objective: batches, matching, losses, contrast."""

__all__: list[str] = []
