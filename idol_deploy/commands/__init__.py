"""A module for each subcommand of `idol-deploy`: its arguments, and what they set going; imports lazily."""

__all__: list[str] = []
