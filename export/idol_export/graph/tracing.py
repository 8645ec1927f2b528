"""Tracing of the export adapter to ONNX: standard operators, static shapes, no paths of this machine."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import onnx.utils
import torch
from onnxscript import opset18, optimizer
from torch.nn import functional as F

from idol_export.graph.adapter import STAGES, ExportGraph
from idol_runtime.bundle.bundle import OUTPUT_NAMES, TensorInfo
from idol_runtime.errors import ConfigError

__all__ = ["DEFAULT_OPSET", "check_opset", "describe_io", "probe_to_onnx", "shipped"]

DEFAULT_OPSET = 18
# The exporter makes invalid graphs of opset 26, with nodes that have no operator.
_NEWEST_OPSET = min(25, onnx.defs.onnx_opset_version())

_LIMIT = 2**31  # bytes of a protobuf message


def check_opset(opset: int) -> None:
    """Check that graphs can be exported with this version of the ONNX operators.

    Raises:
        ConfigError: the version is too old or too new.
    """
    if opset < DEFAULT_OPSET:
        raise ConfigError(f"opset {opset} is too old; use --opset {DEFAULT_OPSET} or newer")
    if opset > _NEWEST_OPSET:
        raise ConfigError(
            f"opset {opset} is newer than what can be exported; use --opset {DEFAULT_OPSET} to {_NEWEST_OPSET}"
        )


def probe_to_onnx(graph: ExportGraph, *, dynamic_batch: bool = False, opset: int = DEFAULT_OPSET) -> bytes:
    """Return the probe: a checked ONNX file with the outputs `STAGES` and `OUTPUT_NAMES`.

    The stages show where an error begins. `shipped` removes them.

    Args:
        graph: export adapter of the network.
        dynamic_batch: leave the number of frames free, instead of 1.
        opset: version of the ONNX operators (default: 18).

    Raises:
        ConfigError: the opset is not supported, or the network exceeds one ONNX file (2 GiB).
    """
    check_opset(opset)
    # A free batch is traced with two frames, because the exporter makes a batch of one a constant.
    image = torch.zeros(2 if dynamic_batch else 1, *graph.network_size, 3, dtype=torch.uint8)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph.eval(),
            (image,),
            dynamo=True,
            opset_version=opset,
            input_names=["image"],
            output_names=[*STAGES, *OUTPUT_NAMES],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None,
            custom_translation_table={torch.ops.aten.upsample_nearest2d.vec: _enlarge},
            external_data=False,
            verbose=False,
        )
        assert program is not None
        # The exporter does not fold large constants; the joined weights of a projection must be folded.
        optimizer.fold_constants(program.model, should_fold=lambda node: node.op_type == "Concat" or None)
        optimizer.remove_unused_nodes(program.model)
    model = program.model_proto
    _strip(model)
    return _checked(model)


def _enlarge(x: Any, output_size: Sequence[int], scale_factors: None = None) -> Any:
    """Return a nearest enlargement of [N, C, h, w] in ONNX without a Resize, which OpenVINO 2026.4 computes wrongly.

    Twice the size is an Expand, which needs no index; any other size takes rows and columns like PyTorch.
    """
    assert scale_factors is None
    op: Any = opset18  # its types lack constants given as lists
    old, new = [int(side) for side in x.shape[2:]], [int(side) for side in output_size]
    if new == [2 * side for side in old]:
        cells = op.Reshape(x, [0, 0, old[0], 1, old[1], 1])
        return op.Reshape(op.Expand(cells, [1, 1, 1, 2, 1, 2]), [0, 0, *new])
    for axis, (before, after) in enumerate(zip(old, new, strict=True), 2):
        places = torch.arange(before).float()[None, None]
        x = op.Gather(x, F.interpolate(places, size=after, mode="nearest")[0, 0].long().tolist(), axis=axis)
    return x


def shipped(probe: bytes) -> bytes:
    """Return the graph of a probe without its stages: the same nodes with the outputs `OUTPUT_NAMES` only."""
    extractor = onnx.utils.Extractor(onnx.load_model_from_string(probe))
    model = extractor.extract_model(["image"], list(OUTPUT_NAMES))
    _strip(model)
    return _checked(model)


def _checked(model: onnx.ModelProto) -> bytes:
    if model.ByteSize() >= _LIMIT:
        raise ConfigError("the network does not fit one ONNX file of 2 GiB; choose a smaller backbone")
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's output, log messages and warnings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _strip(model: onnx.ModelProto) -> None:
    """Remove stack traces and notes, which contain paths of this machine and differ between exports."""
    model.producer_name, model.producer_version, model.doc_string = "idol_deploy", "", ""
    del model.metadata_props[:]
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        graph.doc_string = ""
        del graph.metadata_props[:]
        for item in (*graph.node, *graph.value_info):
            item.doc_string = ""
            del item.metadata_props[:]
    for tensor in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        tensor.doc_string = ""
        del tensor.metadata_props[:]


def describe_io(data: bytes) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Return the inputs and outputs of an ONNX file; a free dimension is -1."""
    model = onnx.load_model_from_string(data)
    return tuple(map(_tensor_info, model.graph.input)), tuple(map(_tensor_info, model.graph.output))


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return TensorInfo(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)
