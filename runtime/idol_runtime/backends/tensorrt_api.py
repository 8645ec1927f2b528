"""TensorRT's Python package, 10.3 to 11: import, log, and registration of the plugin."""

from __future__ import annotations

import functools
import re
import types
from collections import deque
from pathlib import Path
from typing import Any

from idol_runtime.errors import BackendError
from idol_runtime.optional import import_optional

__all__ = ["OLDEST", "TensorRTLog", "import_tensorrt", "load_plugin", "tensorrt_log"]

OLDEST = (10, 3)
_MAX_MESSAGES = 20


def import_tensorrt() -> types.ModuleType:
    """Import TensorRT and check its version.

    Raises:
        MissingDependencyError: TensorRT is not installed.
        BackendError: TensorRT is too old.
    """
    module = import_optional("tensorrt", "tensorrt", "tensorrt", "running or building engines")
    version = str(getattr(module, "__version__", "0"))
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
        raise BackendError(
            f"TensorRT {version} is too old; install {'.'.join(map(str, OLDEST))} or newer (JetPack 6.1)"
        )
    return module  # type: ignore[no-any-return]


class TensorRTLog:
    """The latest messages of TensorRT.

    Attributes:
        logger: `ILogger` to pass to TensorRT.
    """

    def __init__(self) -> None:
        import tensorrt as trt

        errors: deque[str] = deque(maxlen=_MAX_MESSAGES)
        warnings: deque[str] = deque(maxlen=_MAX_MESSAGES)

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            # TensorRT calls this from its own threads, where an exception would end the process.
            def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
                if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                    errors.append(msg)
                elif severity == trt.ILogger.Severity.WARNING:
                    warnings.append(msg)

        self._errors, self._warnings = errors, warnings
        self.logger: Any = Logger()

    def clear(self) -> None:
        """Delete all messages, before a call that may fail."""
        self._errors.clear()
        self._warnings.clear()

    def reason(self) -> str:
        """Return the first error since `clear` in one line; the following ones are usually its consequences."""
        first = self._errors[0] if self._errors else "TensorRT gives no reason"
        return " ".join(first.split())[:300]

    @property
    def warnings(self) -> list[str]:
        """Latest warnings since `clear`."""
        return [" ".join(warning.split()) for warning in self._warnings]


@functools.cache
def tensorrt_log() -> TensorRTLog:
    """Return the log of this process; TensorRT uses its first logger until the process ends."""
    return TensorRTLog()


@functools.cache
def load_plugin(library: Path) -> None:
    """Register the plugin of a library, once per process.

    Raises:
        BackendError: TensorRT cannot load the library.
    """
    import tensorrt as trt

    from idol_plugins.trt import NAME, NAMESPACE, PLUGIN_VERSION

    log = tensorrt_log()
    log.clear()
    registry = trt.get_plugin_registry()
    try:
        handle = registry.load_library(str(library))
    except Exception as error:
        raise BackendError(f"TensorRT cannot load {library}: {error}; {_BUILD_AGAIN}") from error
    if handle is None or registry.get_creator(NAME, PLUGIN_VERSION, NAMESPACE) is None:
        raise BackendError(f"TensorRT cannot load {library}: {log.reason()}; {_BUILD_AGAIN}")


_BUILD_AGAIN = "build it again: idol-deploy plugins build --cuda"
