"""The training objective: batches, matching and losses."""

__all__: list[str] = []
