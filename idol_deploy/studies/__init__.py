"""Studies of the method, figures and the ablation; not needed for deployment."""

__all__: list[str] = []
