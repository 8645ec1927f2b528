"""The exact graph that ships: adapter, tracing, our operator, and the weights that graphs share."""

__all__: list[str] = []
