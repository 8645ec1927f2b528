"""The operator as ONNX graphs name it, and its library for ONNX Runtime (`csrc/ort_adapter.cpp`).

| | |
| --- | --- |
| inputs | value [N, S, M, D] T; merged [N, Q, M * L * P * 3] U; reference [N or 1, Q, L, 2 or 4] float |
| output | [N, Q, M * D] T |
| attributes | `heads` = M, `points` = P, `shapes` = h and w of each level |
| T, U | float, float; float16, float16; float16, float; bfloat16, float |

It computes `idol_plugins.reference.deformable_attention` of the offsets and logits in `merged`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from idol_plugins.errors import PluginError
from idol_plugins.libraries import BUILD, find_library

if TYPE_CHECKING:
    from idol_plugins.cases import Case
    from idol_plugins.reference import Array

__all__ = [
    "DOMAIN",
    "OPERATOR",
    "VERSION",
    "one_node_graph",
    "ort_library",
    "run_case",
    "serves_cuda",
    "session_options",
]

DOMAIN = "idol_deploy"
OPERATOR = "DeformAttn"
VERSION = 1


def ort_library(folder: Path | None = None) -> Path:
    """Return the library for `SessionOptions.register_custom_ops_library`.

    Args:
        folder: Only folder to search; None: all of `library_folders()`.

    Raises:
        PluginError: The library is not built.
    """
    return find_library("idol_deform_attn_ort", folder, f"{BUILD} --fetch-headers")


def serves_cuda(library: Path) -> bool:
    """Return True if the library has the operator for ONNX Runtime's CUDA provider, whose name it then contains."""
    return b"CUDAExecutionProvider" in library.read_bytes()


def session_options(library: Path, threads: int = 2) -> Any:
    """Return ONNX Runtime session options with the operator registered.

    Raises:
        PluginError: ONNX Runtime cannot load the library.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PluginError(
            f"ONNX Runtime cannot load {library} ({reason}); build it again: {BUILD}"
        ) from error
    return options


def run_case(library: Path, provider: str, case: Case) -> Array:
    """Compute a test case on an execution provider of ONNX Runtime, in a graph of one node."""
    import onnxruntime

    options = session_options(library)
    if provider != "CPUExecutionProvider":
        # Without this, nodes that the provider does not support would run on the CPU.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(one_node_graph(case), options, providers=[provider])
    arrays = {"value": case.value, "merged": case.merged, "reference": case.reference}
    return np.asarray(session.run(None, arrays)[0], np.float32)


def one_node_graph(case: Case) -> bytes:
    """Make a graph with float32 inputs and output, because numpy has no bfloat16; the casts are in the graph."""
    from onnx import TensorProto, parser

    types = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
    shapes = [side for shape in case.shapes for side in shape]
    inputs = ", ".join(
        f"float{list(getattr(case, name).shape)} {name}" for name in ("value", "merged", "reference")
    )
    model = parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 18, "{DOMAIN}": {VERSION}]>
        one_node ({inputs}) => (float{list(case.output_shape)} out) {{
            cast_value = Cast <to = {types[case.dtype]}> (value)
            cast_merged = Cast <to = {types[case.merged_dtype]}> (merged)
            mixed = {DOMAIN}.{OPERATOR} <heads = {case.value.shape[2]}, points = {case.points}, shapes = {shapes}>
                (cast_value, cast_merged, reference)
            out = Cast <to = {TensorProto.FLOAT}> (mixed)
        }}
    """)
    return bytes(model.SerializeToString())
