"""Build hook that adds compiled libraries to a wheel for `scripts/wheel`; other wheels are pure Python."""

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LibrariesHook(BuildHookInterface):
    """Build hook with two settings: IDOL_WHEEL_LIBRARIES, a folder of libraries, and IDOL_WHEEL_TAG, their platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries and mark the wheel as specific to their platform."""
        folder = os.environ.get("IDOL_WHEEL_LIBRARIES")
        if not folder or version != "standard":
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{os.environ['IDOL_WHEEL_TAG']}"
        build_data["force_include"] |= {
            str(library): f"idol_plugins/lib/{library.name}" for library in sorted(Path(folder).glob("*.so"))
        }
