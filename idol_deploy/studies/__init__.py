"""Studies of the method: figures and the ablation. Not needed for deployment."""

__all__: list[str] = []
