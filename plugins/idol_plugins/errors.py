"""The root of the exception tree, in the lowest room so that every other room can build on it.

The whole tree is drawn in `idol_runtime.errors`.
"""

__all__ = ["IdolError", "PluginError"]


class IdolError(Exception):
    """Base of every error this project raises for a reason the user can mend; its message names the fix."""


class PluginError(IdolError):
    """A plugin library that is not built, cannot be built or loaded, or refuses its arguments."""
