"""The reduced precisions that a bundle can hold."""

from collections.abc import Collection, Iterable, Mapping

from idol_export.precision.base import Precision
from idol_export.precision.half import BF16, FP16
from idol_export.precision.int8 import INT8_ORT, INT8_QDQ
from idol_runtime.bundle.certificates import ReducedName

__all__ = ["PRECISIONS", "select_precisions"]

# To add a precision: one entry here, and the module that makes its graph.
PRECISIONS: Mapping[ReducedName, Precision] = {
    precision.name: precision for precision in (FP16, BF16, INT8_ORT, INT8_QDQ)
}


def select_precisions(arithmetic: Iterable[str], targets: Collection[str]) -> tuple[Precision, ...]:
    """Return the precisions of these kinds of arithmetic.

    Args:
        arithmetic: `fp16`, `bf16` or `int8` each; others, and repetitions, are skipped.
        targets: quantization targets of int8.
    """
    return tuple(
        precision
        for kind in dict.fromkeys(arithmetic)
        for precision in PRECISIONS.values()
        if precision.arithmetic == kind and (precision.target in targets or not precision.calibrated)
    )
