"""Online video instance segmentation on a device, without torch: frames in, tracked instances out.

    from idol_runtime import Pipeline

    with Pipeline.open("model.idol") as pipeline:
        for result in pipeline.stream("clip.mp4"):
            print(result.index, result.ids)

Names are loaded at their first use, so that importing this package is fast.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idol_runtime.config import AssociationConfig, Preprocessing, StreamConfig, VideoConfig
    from idol_runtime.errors import IdolError
    from idol_runtime.pipeline import Pipeline
    from idol_runtime.streams import Streams
    from idol_runtime.tracking.results import FrameResult, VideoResult, write_results

    __version__: str

__all__ = [
    "AssociationConfig",
    "FrameResult",
    "IdolError",
    "Pipeline",
    "Preprocessing",
    "StreamConfig",
    "Streams",
    "VideoConfig",
    "VideoResult",
    "__version__",
    "write_results",
]

_MODULES = {
    "config": ("AssociationConfig", "Preprocessing", "StreamConfig", "VideoConfig"),
    "errors": ("IdolError",),
    "pipeline": ("Pipeline",),
    "streams": ("Streams",),
    "tracking.results": ("FrameResult", "VideoResult", "write_results"),
}
_MODULE_OF = {name: f"idol_runtime.{module}" for module, names in _MODULES.items() for name in names}

# Hidden from type checkers, which would otherwise accept any name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            value = version("idol-deploy")
        elif name in _MODULE_OF:
            from importlib import import_module

            value = getattr(import_module(_MODULE_OF[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
