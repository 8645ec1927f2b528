"""The tree of errors for users.

IdolError                      base class; the command line prints it as one line and exits with status 2
├── ConfigError                an option, preset or class list is invalid
├── CheckpointError            a weight file is broken, unsafe, or of another network
├── BundleError                an .idol file is broken, modified, or of a newer schema
├── DataError                  an annotation or results file is broken or inconsistent
├── SourceError                a video, image folder, camera or stream cannot be read
├── FrameError                 a frame has a wrong type, depth or size
├── StateError                 a state file is broken, or of another bundle, source or other settings
├── OutputError                an output path cannot be written
├── TrainingError              a training run cannot continue, because its loss is not a finite number
├── BackendError               an inference engine is missing, refuses the graph, or fails the golden check
├── ParityError                an artefact differs from PyTorch by more than its tolerance
├── PluginError                a plugin library is missing, cannot be built or loaded, or refuses its arguments
└── MissingDependencyError     an optional package is not installed
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
    "StateError",
    "TrainingError",
]


class ConfigError(IdolError):
    """An invalid option, preset or class list."""


class CheckpointError(IdolError):
    """A weight file that is broken, unsafe, or of another network."""


class BundleError(IdolError):
    """An `.idol` file that is broken, modified, or of a newer schema."""


class DataError(IdolError):
    """An annotation or results file that is broken or inconsistent."""


class SourceError(IdolError):
    """A video, image folder, camera or stream that cannot be read."""


class FrameError(IdolError):
    """A frame with a wrong type, depth or size."""


class StateError(IdolError):
    """A state file that is broken, or of another bundle, source or other settings."""


class OutputError(IdolError):
    """An output path that cannot be written."""


class TrainingError(IdolError):
    """A training run that cannot continue, because its loss is not a finite number."""


class BackendError(IdolError):
    """An inference engine that is missing, refuses the graph, or fails the golden check."""


class ParityError(IdolError):
    """An artefact that differs from PyTorch by more than its tolerance.

    Attributes:
        stage: name of the first stage out of tolerance.
    """

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


class MissingDependencyError(IdolError):
    """An optional package that is not installed.

    Attributes:
        package: name of the package.
        extra: extra of this project that installs it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed; install it with: "
            f"pip install 'idol-deploy[{extra}]'"
        )
        self.package = package
        self.extra = extra
