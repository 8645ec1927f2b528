"""Online video instance segmentation on a device, without torch: frames in, tracked instances out.

    from idol_runtime import Pipeline

    with Pipeline.open("model.idol") as pipeline:
        for result in pipeline.stream("clip.mp4"):
            print(result.index, result.ids)

Names are loaded at their first use, so that importing this package is fast.
"""

from typing import TYPE_CHECKING

from idol_runtime.optional import lazy_names

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

# Hidden from type checkers, which would otherwise accept any name.
if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        globals(),
        {
            "idol_runtime.config": ("AssociationConfig", "Preprocessing", "StreamConfig", "VideoConfig"),
            "idol_runtime.errors": ("IdolError",),
            "idol_runtime.pipeline": ("Pipeline",),
            "idol_runtime.streams": ("Streams",),
            "idol_runtime.tracking.results": ("FrameResult", "VideoResult", "write_results"),
        },
    )
