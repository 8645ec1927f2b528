"""The `.idol` bundle and the engine files built from it."""

__all__: list[str] = []
