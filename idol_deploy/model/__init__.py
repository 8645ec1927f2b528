"""The network, one file per box of the figure."""

__all__: list[str] = []
