"""TensorRT's numbers by their names, and what it says of a tensor or an attribute."""

import enum
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

__all__ = ["Capability", "Field", "FieldType", "Phase", "Tensor", "TensorType"]

Array: TypeAlias = NDArray[Any]


class TensorType(enum.IntEnum):
    """`nvinfer1::DataType`."""

    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8
    INT4 = 9
    FP4 = 10


class FieldType(enum.IntEnum):
    """`nvinfer1::PluginFieldType`, as far as attributes have it."""

    FLOAT32 = 1
    INT32 = 5
    CHAR = 6
    INT64 = 10


class Phase(enum.IntEnum):
    """`nvinfer1::TensorRTPhase`."""

    BUILD = 0
    RUNTIME = 1


class Capability(enum.IntEnum):
    """`nvinfer1::PluginCapabilityType`."""

    CORE = 0
    BUILD = 1
    RUNTIME = 2


@dataclass(frozen=True)
class Tensor:
    """What TensorRT says of a tensor.

    Attributes:
        type: of an element; a number that is no `TensorType`, too.
        sizes: up to 8; negative: not known yet.
        format: `nvinfer1::TensorFormat`; 0 is linear.
    """

    type: int
    sizes: tuple[int, ...] = ()
    format: int = 0


@dataclass(frozen=True, eq=False)
class Field:
    """An attribute as TensorRT hands it over.

    Attributes:
        name: of the attribute.
        type: of its values.
        values: in memory; None: a null pointer.
        length: how many the field claims to have; None: as many as there are.
    """

    name: str
    type: int
    values: Array | None
    length: int | None = None
