"""Puts built libraries into a wheel, where `scripts/wheel` asks for it; any other wheel is pure Python."""

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LibrariesHook(BuildHookInterface):
    """IDOL_WHEEL_LIBRARIES names a folder of libraries, and IDOL_WHEEL_TAG the platform that they need."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries, and say that the wheel is not for every platform any more."""
        folder = os.environ.get("IDOL_WHEEL_LIBRARIES")
        if not folder or version != "standard":
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{os.environ['IDOL_WHEEL_TAG']}"
        build_data["force_include"] |= {
            str(library): f"idol_plugins/lib/{library.name}" for library in sorted(Path(folder).glob("*.so"))
        }
