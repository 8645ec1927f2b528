"""The operator as ONNX graphs name it, and the library that brings it to ONNX Runtime (`csrc/ort_adapter.cpp`).

| | |
| --- | --- |
| inputs | value [N, S, M, D] T; merged [N, Q, M * L * P * 3] U; reference [N or 1, Q, L, 2 or 4] float |
| output | [N, Q, M * D] T |
| attributes | `heads` = M, `points` = P, `shapes` = h, w per level, one after the other |
| T, U | float, float; float16, float16; float16, float; bfloat16, float |

It computes `idol_plugins.reference.deformable_attention` of the offsets and logits that `merged` holds.
"""

from pathlib import Path

from idol_plugins.libraries import find_library

__all__ = ["DOMAIN", "OPERATOR", "VERSION", "ort_library", "serves_cuda"]

DOMAIN = "idol_deploy"
OPERATOR = "DeformAttn"
VERSION = 1


def ort_library(folder: Path | None = None) -> Path:
    """The library for `SessionOptions.register_custom_ops_library`.

    Args:
        folder: look here only.

    Raises:
        PluginError: it is not built.
    """
    return find_library("idol_deform_attn_ort", folder)


def serves_cuda(library: Path) -> bool:
    """Whether the library has the operator for ONNX Runtime's CUDA provider, too: it then names it."""
    return b"CUDAExecutionProvider" in library.read_bytes()
