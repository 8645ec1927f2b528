"""Compares the kernel as compiled for 64-bit Arm, its NEON included, with numpy; run by `scripts/test-neon`.

neon.py COMMAND...    what runs scripts/neon_driver.cpp, an emulator and a program for instance
"""

import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idol_plugins.abi import type_code
from idol_plugins.cases import Case, pack, unpack
from idol_plugins.cpu import Isa
from idol_plugins.errors import PluginError
from idol_plugins.home import Status, Variant
from idol_plugins.selftest import selftest

_BAD_ISA = 4


class DrivenHome:
    """The kernel in a program of its own, which may be another processor's."""

    name = "aarch64"
    title = "CPU kernel on 64-bit Arm"

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def status(self) -> Status:
        """It was built."""
        return Status()

    def variants(self) -> list[Variant]:
        """Scalar and NEON, both forms."""
        return [
            Variant(f"{name}{' classic' if classic else ''}", partial(self._run, isa, classic), classic)
            for name, isa in (("scalar", Isa.SCALAR), ("neon", Isa.VEC128))
            for classic in (False, True)
        ]

    def _run(self, isa: Isa, classic: bool, case: Case) -> NDArray[Any] | None:
        arrays = [pack(case.value, case.dtype)]
        arrays += case.classic if classic else (pack(case.merged, case.merged_dtype), case.reference)
        N, S, M, D = case.value.shape
        numbers = [classic, isa, type_code(case.dtype), type_code(case.merged_dtype)]
        numbers += [N, S, case.output_shape[1], M, D, len(case.shapes), case.points]
        numbers += [case.reference.shape[0], case.reference.shape[3], *np.ravel(case.shapes)]
        given = np.array(numbers, "<i8").tobytes()
        for array in arrays:
            given += np.int64(array.nbytes).tobytes() + np.ascontiguousarray(array).tobytes()
        done = subprocess.run(self._command, input=given, capture_output=True, check=True).stdout  # noqa: S603
        status = int(np.frombuffer(done, np.int32, 1)[0])
        if status == _BAD_ISA:
            return None
        if status:
            raise PluginError(f"status {status}")
        out = np.frombuffer(done, pack(np.zeros(0), case.dtype).dtype, offset=4)
        return unpack(out.reshape(case.output_shape), case.dtype)


def main() -> None:
    """Exit with 1 where the kernel and numpy disagree."""
    report = selftest([DrivenHome(sys.argv[1:])], cases=8)
    print(report.table())
    for failure in report.failures:
        print(failure, file=sys.stderr)
    sys.exit(bool(report.failures))


if __name__ == "__main__":
    main()
