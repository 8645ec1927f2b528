"""The examination of a machine: what it has, what `run` would choose, what is missing and the command that gets it."""

__all__: list[str] = []
