"""Online video instance segmentation on a device: frames in, tracked instances out, without torch.

    from idol_runtime import Pipeline

    with Pipeline.open("model.idol") as pipeline:
        for result in pipeline.stream("clip.mp4"):
            print(result.index, result.ids)

Names are loaded when first used: importing this package costs nothing.
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

_HOMES = {
    "AssociationConfig": "idol_runtime.config",
    "FrameResult": "idol_runtime.tracking.results",
    "IdolError": "idol_runtime.errors",
    "Pipeline": "idol_runtime.pipeline",
    "Preprocessing": "idol_runtime.config",
    "StreamConfig": "idol_runtime.config",
    "Streams": "idol_runtime.streams",
    "VideoConfig": "idol_runtime.config",
    "VideoResult": "idol_runtime.tracking.results",
    "write_results": "idol_runtime.tracking.results",
}

# Type checkers must not see this: they would believe any name to exist.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            value = version("idol-deploy")
        elif name in _HOMES:
            from importlib import import_module

            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
