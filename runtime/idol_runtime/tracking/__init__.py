"""From network outputs to tracked instances."""

__all__: list[str] = []
