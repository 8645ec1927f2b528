"""The `idol-deploy run` command as a library: sources through one network into sinks."""

__all__: list[str] = []
