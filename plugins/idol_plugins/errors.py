"""The root of the exception tree, in the lowest package so that every other package can derive from it.

The complete tree is listed in `idol_runtime.errors`.
"""

__all__ = ["IdolError", "PluginError"]


class IdolError(Exception):
    """Base of every error that a user of this project can fix; the message names the fix."""


class PluginError(IdolError):
    """A plugin library that is not built, cannot be built or loaded, or rejects its arguments."""
