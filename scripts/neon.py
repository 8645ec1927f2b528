"""Compare the kernel compiled for 64-bit Arm, with NEON, with numpy; called by `scripts/test-neon`.

neon.py COMMAND...    COMMAND runs scripts/neon_driver.cpp, for example an emulator and the program
"""

import subprocess
import sys
from functools import partial

import numpy as np

from idol_plugins.abi import type_code
from idol_plugins.cases import Case, pack, unpack
from idol_plugins.cpu import Isa
from idol_plugins.errors import PluginError
from idol_plugins.reference import Array
from idol_plugins.selftest import Status, Target, Variant, selftest

_BAD_ISA = 4


def _run(command: list[str], isa: Isa, classic: bool, case: Case) -> Array | None:
    """Compute a case in a program of its own, which may be compiled for another processor."""
    arrays = [pack(case.value, case.dtype)]
    arrays += case.classic if classic else (pack(case.merged, case.merged_dtype), case.reference)
    N, S, M, D = case.value.shape
    numbers = [classic, isa, type_code(case.dtype), type_code(case.merged_dtype)]
    numbers += [N, S, case.output_shape[1], M, D, len(case.shapes), case.points]
    numbers += [case.reference.shape[0], case.reference.shape[3], *np.ravel(case.shapes)]
    stdin = np.array(numbers, "<i8").tobytes()
    for array in arrays:
        stdin += np.int64(array.nbytes).tobytes() + np.ascontiguousarray(array).tobytes()
    stdout = subprocess.run(command, input=stdin, capture_output=True, check=True).stdout  # noqa: S603
    status = int(np.frombuffer(stdout, np.int32, 1)[0])
    if status == _BAD_ISA:
        return None
    if status:
        raise PluginError(f"status {status}")
    out = np.frombuffer(stdout, pack(np.zeros(0), case.dtype).dtype, offset=4)
    return unpack(out.reshape(case.output_shape), case.dtype)


def _variants(command: list[str]) -> list[Variant]:
    return [
        Variant(f"{name}{' classic' if classic else ''}", partial(_run, command, isa, classic), classic)
        for name, isa in (("scalar", Isa.SCALAR), ("neon", Isa.VEC128))
        for classic in (False, True)
    ]


def main() -> None:
    """Exit with status 1 if the kernel and numpy differ."""
    target = Target("aarch64", "CPU kernel on 64-bit Arm", Status, partial(_variants, sys.argv[1:]))
    report = selftest([target], cases=8)
    print(report.table())
    for failure in report.failures:
        print(failure, file=sys.stderr)
    sys.exit(bool(report.failures))


if __name__ == "__main__":
    main()
