"""The plugin as TensorRT 10 and 11 name it, and the library that brings it (`csrc/trt_plugin.h`).

One graph serves both engines: a node of `idol_plugins.ort` that carries NODE_ATTRIBUTES besides its own is this
plugin to TensorRT's parser, which takes `heads`, `points` and `shapes` for the plugin's fields.
"""

from pathlib import Path

from idol_plugins.libraries import find_library
from idol_plugins.ort import DOMAIN, OPERATOR, VERSION

__all__ = ["NAME", "NAMESPACE", "NODE_ATTRIBUTES", "PLUGIN_VERSION", "trt_library"]

NAME = OPERATOR
NAMESPACE = DOMAIN
PLUGIN_VERSION = str(VERSION)

# Of an ONNX node, for the parser.
NODE_ATTRIBUTES = {"plugin_version": PLUGIN_VERSION, "plugin_namespace": NAMESPACE}


def trt_library(folder: Path | None = None) -> Path:
    """The library for `trtexec --dynamicPlugins` or `IPluginRegistry.load_library`.

    Args:
        folder: look here only.

    Raises:
        PluginError: it is not built.
    """
    return find_library("idol_deform_attn_trt", folder)
