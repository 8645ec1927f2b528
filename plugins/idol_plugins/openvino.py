"""The operator of `idol_plugins.ort` for OpenVINO's CPU plugin (`csrc/openvino_adapter.cpp`).

OpenVINO's C++ interface changes with every release, so a library is built for one release and has it in its name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from idol_plugins.errors import PluginError
from idol_plugins.headers import openvino_release
from idol_plugins.libraries import BUILD, find_library, library_folders
from idol_plugins.ort import one_node_graph

if TYPE_CHECKING:
    from idol_plugins.cases import Case
    from idol_plugins.reference import Array

__all__ = ["core_with_operator", "import_openvino", "openvino_library", "run_case"]

_LIBRARY = "idol_deform_attn_openvino"


def openvino_library(folder: Path | None = None) -> Path:
    """Return the library for `openvino.Core.add_extension`.

    Args:
        folder: Only folder to search; None: all of `library_folders()`.

    Raises:
        PluginError: OpenVINO is not installed, or the library is not built, or built for another release only.
    """
    release = openvino_release()
    folders = [folder] if folder is not None else library_folders()
    built = {path.stem.rpartition("-")[2] for place in folders for path in place.glob(f"lib{_LIBRARY}-*")}
    if release in built:
        return find_library(f"{_LIBRARY}-{release}", folder)
    if not built:
        raise PluginError(f"the operator for OpenVINO {release} is not built; build it with: {BUILD}")
    raise PluginError(
        f"the operator is built for OpenVINO {', '.join(sorted(built))}, but {release} is installed; "
        f"build it again: {BUILD} (or: pip install openvino=={max(built)})"
    )


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which reports every import to Google Analytics unless the user opted out.

    OpenVINO works without the package `openvino_telemetry`; the application can still import it afterwards.

    Raises:
        PluginError: OpenVINO is not installed, or cannot be imported.
    """
    openvino_release()
    hidden = "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # import then fails
    try:
        import openvino
    except ImportError as error:
        raise PluginError(
            f"openvino cannot be imported ({error}); pip install --force-reinstall openvino"
        ) from error
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
    return openvino  # type: ignore[no-any-return]


def core_with_operator(library: Path) -> Any:
    """Return an `openvino.Core` that knows the operator.

    Raises:
        PluginError: OpenVINO cannot be imported, or cannot load the library.
    """
    core = import_openvino().Core()
    try:
        core.add_extension(str(library))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PluginError(f"OpenVINO cannot load {library} ({reason}); build it again: {BUILD}") from error
    return core


def run_case(core: Any, case: Case) -> Array:
    """Compute a test case on the CPU, in a graph of one node, with a core of `core_with_operator`."""
    # Without the hint, a processor that is fast with bfloat16 or float16 would compute with them.
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    model = core.compile_model(core.read_model(one_node_graph(case), b""), "CPU", hints)
    return np.asarray(model([case.value, case.merged, case.reference])[0], np.float32)
