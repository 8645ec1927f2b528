"""The `idol-deploy run` command as a library: frames from sources through one network into sinks."""

__all__: list[str] = []
