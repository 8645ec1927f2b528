"""Holds a library of the TensorRT plugin to TensorRT's rules and to the numpy twin, without TensorRT.

python -m idol_plugins.conformance [LIBRARY] [--harness FILE]
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from idol_plugins.cases import TOLERANCES, Case, make_cases, pack, unpack
from idol_plugins.cuda_memory import CudaMemory
from idol_plugins.errors import PluginError
from idol_plugins.host_memory import HostMemory, Memory
from idol_plugins.reference import Shapes
from idol_plugins.trt import NAME, NAMESPACE, PLUGIN_VERSION, trt_library
from idol_plugins.trt_calls import (
    COMBINATIONS,
    MOST_LEVELS,
    SHAPES,
    D,
    M,
    N,
    P,
    Q,
    S,
    absurd,
    bad_fields,
    empty,
    make_fields,
    make_tensors,
    misfits,
    resized,
)
from idol_plugins.trt_harness import Plugin, PluginLibrary
from idol_plugins.trt_types import Capability, Field, FieldType, Phase, Tensor
from idol_plugins.trt_types import TensorType as T

__all__ = ["Check", "examine", "main"]

Array: TypeAlias = NDArray[Any]

_TYPES = {"float32": T.FLOAT, "float16": T.HALF, "bfloat16": T.BF16}
_KNOWN_TYPES, _KNOWN_FORMATS = range(12), range(13)


@dataclass
class Check:
    """What was looked at, and what was wrong.

    Attributes:
        name: of the check.
        count: how many expectations there were.
        failures: those that were not met.
    """

    name: str
    count: int = 0
    failures: list[str] = field(default_factory=list)

    def expect(self, truth: bool, failure: str) -> None:
        """Counts, and notes what is wrong unless it is true."""
        self.count += 1
        if not truth:
            self.failures.append(failure)


@dataclass(frozen=True)
class _Trial:
    library: PluginLibrary
    memory: Memory | None

    def refused(self, check: Check, status: int, what: str) -> None:
        """Expects a status other than zero, and an error in the log."""
        check.expect(status != 0, f"accepts {what}")
        check.expect(any(severity <= 1 for severity, _ in self.library.said()), f"says nothing of {what}")

    @contextlib.contextmanager
    def plugin(self, fields: Sequence[Field] | None = None, phase: int = Phase.BUILD) -> Iterator[Plugin]:
        made = self.library.create(make_fields() if fields is None else fields, phase)
        if made is None:
            raise PluginError(
                f"the creator refuses good fields: {self.library.said()}; build the library again"
            )
        with made:
            yield made


def _interfaces(trial: _Trial, check: Check) -> None:
    library = trial.library
    check.expect(library.creators == 1, f"{library.creators} creators")
    expected = "PLUGIN CREATOR_V3ONE 1.0", NAME, PLUGIN_VERSION, NAMESPACE
    check.expect(library.identity() == expected, f"the creator is {library.identity()}, not {expected}")
    names = [asked.name for asked in library.fields()]
    check.expect(sorted(names) == ["heads", "points", "shapes"], f"the creator asks for {names}")


def _creation(trial: _Trial, check: Check) -> None:
    string = np.frombuffer(NAMESPACE.encode(), np.int8)
    for phase in Phase:
        for kind in (FieldType.INT32, FieldType.INT64):
            extra = Field("plugin_namespace", FieldType.CHAR, string)
            with trial.plugin([extra, *reversed(make_fields(kind=kind))], phase) as plugin:
                expected = "PLUGIN 1.0", NAME, PLUGIN_VERSION, NAMESPACE
                check.expect(plugin.identity == expected, f"the plugin is {plugin.identity}, not {expected}")
                for capability in Capability:
                    found, wanted = plugin.capability(capability), f"PLUGIN_V3ONE_{capability.name}"
                    check.expect(found is not None and found.split()[0] == wanted, f"{wanted} is {found}")
                check.expect(plugin.capability(7) is None, "has a capability that there is none of")


def _refusals(trial: _Trial, check: Check) -> None:
    for what, fields in bad_fields().items():
        for phase in Phase:
            made = trial.library.create(fields, phase)
            trial.refused(check, made is None, what)
            if made is not None:
                made.destroy()
    with trial.plugin() as plugin:
        for what, tensors in misfits().items():
            trial.refused(check, plugin.configure(tensors), f"{what}, when configured")
            trial.refused(check, plugin.shape_change(tensors), f"{what}, before it runs")
        trial.refused(check, plugin.configure(make_tensors()[1:], 2), "two inputs")
        trial.refused(check, plugin.shape_change(make_tensors(-1)), "a size that is not known when it runs")


def _formats(trial: _Trial, check: Check) -> None:
    garbage = Tensor(77, (), 99)  # what comes after a position is not to be looked at
    with trial.plugin() as plugin:
        for position in range(4):
            for before in sorted({combination[:position] for combination in COMBINATIONS}):
                for kind in _KNOWN_TYPES:
                    for layout in _KNOWN_FORMATS:
                        tensors = [*map(Tensor, before), Tensor(kind, (), layout), *3 * [garbage]][:4]
                        fits = (*before, kind) in {known[: position + 1] for known in COMBINATIONS}
                        found = plugin.supports(position, tensors)
                        what = f"type {kind} in format {layout} at position {position} after {before}"
                        check.expect(found == (fits and layout == 0), f"{what}: {found}")
        for position, inputs in ((-1, 3), (4, 3), (0, 2), (0, 4)):
            found = plugin.supports(position, 4 * [Tensor(T.FLOAT)], inputs)
            check.expect(not found, f"position {position} of {inputs} inputs is supported")


def _types(trial: _Trial, check: Check) -> None:
    with trial.plugin() as plugin:
        check.expect(plugin.outputs == 1, f"{plugin.outputs} outputs")
        for *inputs, output in sorted(COMBINATIONS):
            found = plugin.output_types(inputs)
            check.expect(found == (0, [output]), f"the output of {inputs} is {found}")
        trial.refused(check, plugin.output_types([T.INT8, T.FLOAT, T.FLOAT])[0], "eight-bit values")
        trial.refused(check, plugin.output_types([T.FLOAT, T.FLOAT])[0], "two inputs")


def _shapes(trial: _Trial, check: Check) -> None:
    with trial.plugin() as plugin:
        for images, queries in ((N, Q), (-1, Q), (N, -1), (-1, -1)):
            known = make_tensors(images, queries)[:3]
            actual = make_tensors(N if images >= 0 else 5, Q if queries >= 0 else 11)[:3]
            # A size that depends on one that is not known comes negated, less one.
            expected = 0, [(N if images >= 0 else -6, Q if queries >= 0 else -12, M * D)]
            found = plugin.output_shapes(known, actual)
            check.expect(found == expected, f"{images} images, {queries} queries: {found}, not {expected}")
        flat = resized(make_tensors(), 0, N, S, M * D)[:3]
        trial.refused(check, plugin.output_shapes(flat, flat)[0], "a value of three dimensions")
        for sizes in ((N, Q, N), (N, Q, 1), (-1, Q, -1), (-1, -1, 1), (-1, -1, -1)):
            tensors = make_tensors(*sizes)
            check.expect(plugin.configure(tensors) == 0, f"is not to be configured for {tensors}")
            check.expect(plugin.workspace(tensors) == 0, "asks for a workspace that it does not need")
        for sizes in ((N, Q, N), (N, Q, 1), (1, 1, 1)):
            tensors = make_tensors(*sizes)
            check.expect(plugin.shape_change(tensors) == 0, f"is not to run with {tensors}")
        check.expect(plugin.tactics == 0, f"{plugin.tactics} tactics")
        check.expect(plugin.aliased(0) == -1, "the output is an input")


def _same(a: Field, b: Field) -> bool:
    return (
        a.name == b.name and a.type == b.type and np.array_equal(np.asarray(a.values), np.asarray(b.values))
    )


def _serialisation(trial: _Trial, check: Check) -> None:
    many: Shapes = tuple((i + 1, i + 2) for i in range(MOST_LEVELS))
    texts = []
    for heads, points, shapes in ((M, P, SHAPES), (1, 1, ((1, 1),)), (3, 13, many)):
        with trial.plugin(make_fields(heads, points, shapes, FieldType.INT64)) as plugin:
            stored, said = plugin.stored_fields(), (plugin.cache_id, plugin.metadata)
        values = {kept.name: [] if kept.values is None else kept.values.tolist() for kept in stored}
        sides = [side for shape in shapes for side in shape]
        check.expect(values == {"heads": [heads], "points": [points], "shapes": sides}, f"keeps {values}")
        with trial.plugin(stored, Phase.RUNTIME) as again, again.clone() as copy:  # type: ignore[union-attr]
            for name, other in (("an engine's", again), ("a clone's", copy)):
                fields = other.stored_fields()
                same = len(fields) == len(stored) and all(map(_same, fields, stored))
                check.expect(same, f"{name} fields are others")
                check.expect((other.cache_id, other.metadata) == said, f"{name} texts are others")
        texts.append(said)
    check.expect(None not in {text for said in texts for text in said}, "has no text for the timing cache")
    check.expect(
        len({cache for cache, _ in texts}) == len(texts), "others' timings would be taken for its own"
    )


@contextlib.contextmanager
def _lives(trial: _Trial, case: Case, way: int) -> Iterator[Plugin]:
    """A plugin for a case, in one of the ways in which TensorRT comes by one."""
    fields = make_fields(case.value.shape[2], case.points, case.shapes)
    with contextlib.ExitStack() as stack:
        plugin: Plugin | None = stack.enter_context(trial.plugin(fields))
        assert plugin is not None
        if way == 1:
            plugin = plugin.clone()
        elif way == 2:
            plugin = plugin.attach()
        elif way == 3:
            plugin = trial.library.create(plugin.stored_fields(), Phase.RUNTIME)
        if way:
            stack.close()  # what it was made of is gone
        if plugin is None:
            raise PluginError("the plugin cannot be copied; build the library again")
        if way:
            stack.enter_context(plugin)
        yield plugin


def _relative_error(found: Array, expected: Array) -> float:
    """Relative L2 error of what is finite; infinite where NaN is not where it is expected."""
    if not np.array_equal(np.isnan(found), np.isnan(expected)):
        return float("inf")
    finite = np.isfinite(expected)
    size = float(np.linalg.norm(expected[finite]))
    return float(np.linalg.norm(found[finite] - expected[finite])) / (size or 1.0)


def _answers(trial: _Trial, check: Check) -> None:
    memory = trial.memory
    assert memory is not None
    for i, case in enumerate(make_cases()):
        value, merged = pack(case.value, case.dtype), pack(case.merged, case.merged_dtype)
        poison = np.full(case.output_shape, 0x7B7B, np.uint16 if value.itemsize == 2 else np.uint32)
        types = (_TYPES[case.dtype], _TYPES[case.merged_dtype], T.FLOAT, _TYPES[case.dtype])
        sizes = value.shape, merged.shape, case.reference.shape, case.output_shape
        tensors = list(map(Tensor, types, sizes))
        with memory.held(), _lives(trial, case, i % 4) as plugin:
            given = [memory.put(array) for array in (value, merged, case.reference)]
            out = memory.put(poison)
            status = plugin.shape_change(tensors) or plugin.enqueue(tensors, given, [out])
            check.expect(status == 0, f"{case.title}: status {status}, {trial.library.said()}")
            found = unpack(memory.get(out, poison.view(value.dtype)), case.dtype)
        error = _relative_error(found, case.expected)
        check.expect(error <= TOLERANCES[case.dtype], f"{case.title}: relative error {error:.1e}")
    with trial.plugin() as plugin:
        for what, tensors in empty().items():
            status = plugin.shape_change(tensors) or plugin.enqueue(tensors, [0, 0, 0], [0])
            check.expect(status == 0, f"{what}: status {status}")


def _probes(trial: _Trial, check: Check) -> None:
    memory = trial.memory
    assert memory is not None
    with trial.plugin() as plugin, memory.held():
        arrays = [np.zeros(t.sizes, np.float32) for t in make_tensors()]
        *given, out = [memory.put(array) for array in (*arrays[:3], arrays[3] + 7)]
        for what, tensors in absurd().items():
            trial.refused(check, plugin.enqueue(tensors, given, [out]), what)
        for i, what in enumerate(("value", "merged", "reference")):
            moved = [pointer + 4 * (i == j) for j, pointer in enumerate(given)]
            trial.refused(
                check, plugin.enqueue(make_tensors(), moved, [out]), f"a {what} that is not aligned"
            )
            missing = [0 if i == j else pointer for j, pointer in enumerate(given)]
            trial.refused(check, plugin.enqueue(make_tensors(), missing, [out]), f"a null {what}")
        trial.refused(check, plugin.enqueue(make_tensors(), given, [0]), "a null output")
        untouched = bool((memory.get(out, arrays[3]) == 7).all())
        check.expect(untouched, "a call that is refused writes to the output")
        check.expect(plugin.enqueue(make_tensors(), given, [out]) == 0, "does not recover from a refusal")
        check.expect(bool((memory.get(out, arrays[3]) == 0).all()), "answers wrongly after a refusal")


_CHECKS: dict[str, Callable[[_Trial, Check], None]] = {
    "interfaces": _interfaces,
    "creation": _creation,
    "refusals": _refusals,
    "formats": _formats,
    "types": _types,
    "shapes": _shapes,
    "serialisation": _serialisation,
    "answers": _answers,
    "probes": _probes,
}
_NEED_MEMORY = {"answers", "probes"}


def examine(library: PluginLibrary, memory: Memory | None) -> list[Check]:
    """Use a library as TensorRT would, and judge what it does.

    Args:
        library: loaded.
        memory: where its plugins' tensors are; None: nothing is computed.

    Returns:
        The checks that were made, up to the first that leaves nothing to go on with.
    """
    trial, checks = _Trial(library, memory), []
    for name, look in _CHECKS.items():
        if name in _NEED_MEMORY and memory is None:
            continue
        check = Check(name)
        checks.append(check)
        try:
            look(trial, check)
        except PluginError as error:
            check.expect(False, str(error))
            break
        if name == "interfaces" and check.failures:
            break  # it may be anything
    return checks


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m idol_plugins.conformance",
        description="Hold the TensorRT plugin to TensorRT's rules and to the numpy twin, without TensorRT.",
    )
    parser.add_argument("library", type=Path, nargs="?", help="default: the plugin that is built")
    parser.add_argument("--harness", type=Path, help="libidol_trt_harness; default: the one that is built")
    options = parser.parse_args(arguments)
    try:
        path = options.library or trt_library()
        with PluginLibrary(path, harness=options.harness) as library:
            return _report(path, library)
    except PluginError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _report(path: Path, library: PluginLibrary) -> int:
    version = ".".join(map(str, library.headers))
    place = "host" if library.on_host else "device"
    sys.stdout.write(f"{path.name}, {place} pointers, as TensorRT {version} would use it\n")
    memory: Memory | None = None
    why = ""
    try:
        memory = HostMemory() if library.on_host else CudaMemory()
    except PluginError as error:
        why = str(error)
    checks = examine(library, memory)
    for check in checks:
        state = "FAIL" if check.failures else "ok  "
        sys.stdout.write(f"{state}  {check.name:14}{check.count - len(check.failures)} of {check.count}\n")
        sys.stdout.write("".join(f"      {failure}\n" for failure in check.failures[:10]))
    if why:
        sys.stdout.write(f"left out: {', '.join(sorted(_NEED_MEMORY))}; {why}\n")
    return int(any(check.failures for check in checks))


if __name__ == "__main__":
    sys.exit(main())
