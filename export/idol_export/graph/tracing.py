"""From the export graph to ONNX: standard operators, static shapes, no trace of the machine it was made on."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import onnx.utils
import torch
from onnxscript import optimizer

from idol_export.graph.adapter import STAGES, ExportGraph
from idol_runtime.bundle.bundle import OUTPUT_NAMES, TensorInfo
from idol_runtime.errors import ConfigError

__all__ = ["DEFAULT_OPSET", "check_opset", "describe_io", "probe_to_onnx", "shipped"]

# GridSample of opset 20 is computed wrongly by TensorRT 10.13 and later where that of 16 (in opset 18) is right.
DEFAULT_OPSET = 18
# The newest that the exporter makes right graphs of; of 26 it leaves nodes without an operator.
_NEWEST_OPSET = min(25, onnx.defs.onnx_opset_version())

_LIMIT = 2**31  # of a protobuf, in bytes


def check_opset(opset: int) -> None:
    """See that graphs can be made of these operators.

    Raises:
        ConfigError: they are too old, or too new.
    """
    if opset < DEFAULT_OPSET:
        raise ConfigError(f"opset {opset} is too old; use --opset {DEFAULT_OPSET} or newer")
    if opset > _NEWEST_OPSET:
        raise ConfigError(
            f"opset {opset} is newer than what can be exported; use --opset {DEFAULT_OPSET} to {_NEWEST_OPSET}"
        )


def probe_to_onnx(graph: ExportGraph, *, dynamic_batch: bool = False, opset: int = DEFAULT_OPSET) -> bytes:
    """The graph as a checked ONNX file that returns `STAGES` as well as `OUTPUT_NAMES`.

    It shows where an error enters; `shipped` makes of it the file that users get.

    Args:
        graph: what to export.
        dynamic_batch: leave the number of frames free, instead of 1.
        opset: of the standard operators; see `check_opset`.

    Raises:
        ConfigError: the opset cannot be, or the network is too large for one ONNX file (2 GiB).
    """
    check_opset(opset)
    # Two frames where the batch is free: the exporter takes a batch of one for a constant.
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
            external_data=False,
            verbose=False,
        )
        assert program is not None
        # The exporter leaves large constants alone; what it must join is the weights of a projection.
        optimizer.fold_constants(program.model, should_fold=lambda node: node.op_type == "Concat" or None)
        optimizer.remove_unused_nodes(program.model)
    model = program.model_proto
    _strip(model)
    return _checked(model)


def shipped(probe: bytes) -> bytes:
    """The same graph, node for node, with the six outputs of `OUTPUT_NAMES` only."""
    extractor = onnx.utils.Extractor(onnx.load_model_from_string(probe))
    model = extractor.extract_model(["image"], list(OUTPUT_NAMES))
    _strip(model)
    return _checked(model)


def _checked(model: onnx.ModelProto) -> bytes:
    if model.ByteSize() >= _LIMIT:
        raise ConfigError("the network does not fit one ONNX file of 2 GiB; choose a smaller backbone")
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's chatter about its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(model: onnx.ModelProto) -> None:
    """Remove stack traces and notes, which hold paths of this machine and change from export to export."""
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
    """Inputs and outputs of an ONNX file; a free dimension is -1."""
    model = onnx.load_model_from_string(data)
    return tuple(map(_tensor_info, model.graph.input)), tuple(map(_tensor_info, model.graph.output))


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return TensorInfo(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)
