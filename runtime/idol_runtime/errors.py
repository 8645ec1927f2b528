"""Every error a user can meet, in one tree.

IdolError                      base of all; the command line prints it as one line and exits with 2
├── ConfigError                an option, preset or class list that cannot be
├── CheckpointError            a weight file that is broken, unsafe, or of another network
├── BundleError                an .idol file that is broken, tampered with, or of a newer schema
├── DataError                  an annotation or results file that is broken or contradicts itself
├── SourceError                a video, image folder, camera or stream that cannot be read
├── FrameError                 one frame of the wrong type, depth or size
├── OutputError                a place that cannot be written
├── TrainingError              a training run that cannot go on: its loss is no number
├── BackendError               an inference engine that is missing, refuses the graph, or answers wrongly
├── ParityError                an artefact that differs from PyTorch beyond its tolerance; names the stage
├── PluginError                a plugin library that is not built, cannot be built or loaded, or refuses its arguments
└── MissingDependencyError     an optional package that is not installed; names the extra that brings it
"""

from idol_plugins.errors import IdolError, PluginError

__all__ = [
    "BackendError",
    "BundleError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FrameError",
    "IdolError",
    "MissingDependencyError",
    "OutputError",
    "ParityError",
    "PluginError",
    "SourceError",
    "TrainingError",
]


class ConfigError(IdolError):
    """An option, preset or class list that cannot be."""


class CheckpointError(IdolError):
    """A weight file that is broken, unsafe, or of another network."""


class BundleError(IdolError):
    """An `.idol` file that is broken, tampered with, or of a newer schema."""


class DataError(IdolError):
    """An annotation or results file that is broken or contradicts itself."""


class SourceError(IdolError):
    """A video, image folder, camera or stream that cannot be read."""


class FrameError(IdolError):
    """One frame of the wrong type, depth or size."""


class OutputError(IdolError):
    """A place that cannot be written."""


class TrainingError(IdolError):
    """A training run that cannot go on: its loss is no number."""


class BackendError(IdolError):
    """An inference engine that is missing, refuses the graph, or answers wrongly."""


class ParityError(IdolError):
    """An artefact that differs from PyTorch beyond its tolerance.

    Attributes:
        stage: name of the first stage out of tolerance.
    """

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


class MissingDependencyError(IdolError):
    """An optional package that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed; install it with: "
            f"pip install 'idol-deploy[{extra}]'"
        )
        self.package = package
        self.extra = extra
