"""Where this project keeps what it has built or fetched for a user."""

import os
from pathlib import Path

from idol_plugins.errors import PluginError

__all__ = ["user_cache"]


def user_cache() -> Path:
    """`idol_deploy` in `$XDG_CACHE_HOME`, else in `~/.cache`.

    Raises:
        PluginError: the user has no home folder, as in a container that runs under a number of no user.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise PluginError("the user has no home folder; set HOME or XDG_CACHE_HOME") from error
    return cache / "idol_deploy"
