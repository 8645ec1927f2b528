"""The plugin as TensorRT 10 and 11 name it, its library (`csrc/trt_plugin.h`), and a check of the library.

One graph serves ONNX Runtime and TensorRT: TensorRT's parser maps a node of `idol_plugins.ort` that also has
NODE_ATTRIBUTES to this plugin, and takes `heads`, `points` and `shapes` as the plugin's fields.
"""

from pathlib import Path

from idol_plugins.libraries import BUILD, find_library
from idol_plugins.ort import DOMAIN, OPERATOR, VERSION

__all__ = ["NAME", "NAMESPACE", "NODE_ATTRIBUTES", "PLUGIN_VERSION", "trt_library"]

NAME = OPERATOR
NAMESPACE = DOMAIN
PLUGIN_VERSION = str(VERSION)

# Attributes of the ONNX node for TensorRT's parser.
NODE_ATTRIBUTES = {"plugin_version": PLUGIN_VERSION, "plugin_namespace": NAMESPACE}


def trt_library(folder: Path | None = None) -> Path:
    """Return the library for `trtexec --dynamicPlugins` or `IPluginRegistry.load_library`.

    Args:
        folder: Only folder to search; None: all of `library_folders()`.

    Raises:
        PluginError: The library is not built.
    """
    return find_library("idol_deform_attn_trt", folder, f"{BUILD} --cuda")
