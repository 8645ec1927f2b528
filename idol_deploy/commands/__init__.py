"""The subcommands of `idol-deploy`: one module each, with its arguments and its `run`."""

__all__: list[str] = []
