"""A check of a TensorRT plugin library against TensorRT's rules and the reference implementation, without TensorRT.

python -m idol_plugins.trt.conformance [LIBRARY] [--harness FILE]
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from idol_plugins.cases import TOLERANCES, Case, make_cases, pack, unpack
from idol_plugins.errors import PluginError
from idol_plugins.memory import CudaMemory, HostMemory, Memory
from idol_plugins.reference import Shapes
from idol_plugins.selftest import difference
from idol_plugins.trt import NAME, NAMESPACE, PLUGIN_VERSION, calls, trt_library
from idol_plugins.trt.calls import D, M, N, P, Q, S, make_fields, make_tensors
from idol_plugins.trt.harness import Capability, Field, FieldType, Phase, Plugin, PluginLibrary, Tensor
from idol_plugins.trt.harness import TensorType as T

__all__ = ["Check", "examine", "main"]

_TYPES = {"float32": T.FLOAT, "float16": T.HALF, "bfloat16": T.BF16}
_KNOWN_TYPES, _KNOWN_FORMATS = range(12), range(13)
_WAYS = ("create", "clone", "attach", "restore")


@dataclass
class Check:
    """Result of one check.

    Attributes:
        name: Name of the check.
        library: Checked library.
        memory: Memory for the plugins' tensors; None: nothing is computed.
        count: Number of expectations.
        failures: Descriptions of the expectations that were not met.
    """

    name: str
    library: PluginLibrary
    memory: Memory | None
    count: int = 0
    failures: list[str] = field(default_factory=list)

    def expect(self, truth: bool, failure: str) -> None:
        """Count an expectation, and record the failure unless it is met."""
        self.count += 1
        if not truth:
            self.failures.append(failure)

    def refused(self, status: int, what: str) -> None:
        """Expect a status other than zero and an error in the log."""
        self.expect(status != 0, f"accepts {what}")
        self.expect(any(severity <= 1 for severity, _ in self.library.log()), f"logs no error for {what}")

    @contextlib.contextmanager
    def plugin(self, fields: Sequence[Field] | None = None, phase: int = Phase.BUILD) -> Iterator[Plugin]:
        """Yield a plugin of the fields (default: `make_fields()`)."""
        with self.required(self.library.create(make_fields() if fields is None else fields, phase)) as plugin:
            yield plugin

    def required(self, plugin: Plugin | None) -> Plugin:
        """Return the plugin, or raise a PluginError with the log if there is none."""
        if plugin is None:
            raise PluginError(f"the plugin cannot be made: {self.library.log()}; build the library again")
        return plugin


def _interfaces(check: Check) -> None:
    library = check.library
    check.expect((count := library.number("creators")) == 1, f"{count} creators")
    expected = "PLUGIN CREATOR_V3ONE 1.0", NAME, PLUGIN_VERSION, NAMESPACE
    check.expect(library.identity() == expected, f"the creator is {library.identity()}, not {expected}")
    names = sorted(declared.name for declared in library.fields())
    check.expect(names == ["heads", "points", "shapes"], f"the creator declares {names}")


def _creation(check: Check) -> None:
    extra = Field("plugin_namespace", FieldType.CHAR, np.frombuffer(NAMESPACE.encode(), np.int8))
    expected = "PLUGIN 1.0", NAME, PLUGIN_VERSION, NAMESPACE
    for phase in Phase:
        for kind in (FieldType.INT32, FieldType.INT64):
            with check.plugin([extra, *reversed(make_fields(kind=kind))], phase) as plugin:
                check.expect(plugin.identity == expected, f"the plugin is {plugin.identity}, not {expected}")
                for capability in Capability:
                    interface, name = plugin.capability(capability), f"PLUGIN_V3ONE_{capability.name}"
                    check.expect((interface or "").split(" ")[0] == name, f"{name} is {interface}")
                check.expect(plugin.capability(7) is None, "has an unknown capability")


def _refusals(check: Check) -> None:
    for what, fields in calls.bad_fields().items():
        for phase in Phase:
            plugin = check.library.create(fields, phase)
            check.refused(plugin is None, what)
            if plugin is not None:
                plugin.destroy()
    with check.plugin() as plugin:
        for what, tensors in calls.misfits().items():
            check.refused(plugin.with_tensors("configure", tensors), f"{what}, when configured")
            check.refused(plugin.with_tensors("shape_change", tensors), f"{what}, before it runs")
        check.refused(plugin.with_tensors("configure", make_tensors()[1:], 2), "two inputs")
        check.refused(plugin.with_tensors("shape_change", make_tensors(-1)), "an unknown size before it runs")


def _formats(check: Check) -> None:
    garbage = Tensor(77, (), 99)  # tensors behind the position must be ignored
    with check.plugin() as plugin:
        for position in range(4):
            supported = {known[: position + 1] for known in calls.COMBINATIONS}
            for before in sorted({combination[:-1] for combination in supported}):
                for kind in _KNOWN_TYPES:
                    for layout in _KNOWN_FORMATS:
                        tensors = [*map(Tensor, before), Tensor(kind, (), layout), *3 * [garbage]][:4]
                        expected = (*before, kind) in supported and layout == 0
                        result = plugin.supports(position, tensors)
                        what = f"type {kind} in format {layout} at position {position} after {before}"
                        check.expect(result == expected, f"{what}: {result}")
        for position, inputs in ((-1, 3), (4, 3), (0, 2), (0, 4)):
            result = plugin.supports(position, 4 * [Tensor(T.FLOAT)], inputs)
            check.expect(not result, f"position {position} of {inputs} inputs is supported")


def _types(check: Check) -> None:
    with check.plugin() as plugin:
        check.expect((count := plugin.number("outputs")) == 1, f"{count} outputs")
        for *inputs, output in sorted(calls.COMBINATIONS):
            result = plugin.output_types(inputs)
            check.expect(result == (0, [output]), f"the output of {inputs} is {result}")
        check.refused(plugin.output_types([T.INT8, T.FLOAT, T.FLOAT])[0], "eight-bit values")
        check.refused(plugin.output_types([T.FLOAT, T.FLOAT])[0], "two inputs")


def _shapes(check: Check) -> None:
    with check.plugin() as plugin:
        for images, queries in ((N, Q), (-1, Q), (N, -1), (-1, -1)):
            known = make_tensors(images, queries)[:3]
            actual = make_tensors(N if images >= 0 else 5, Q if queries >= 0 else 11)[:3]
            # The harness negates a size that depends on an unknown one, and subtracts one.
            expected = 0, [(N if images >= 0 else -6, Q if queries >= 0 else -12, M * D)]
            result = plugin.output_shapes(known, actual)
            check.expect(result == expected, f"{images} images, {queries} queries: {result}, not {expected}")
        flat = calls.resized(0, N, S, M * D)[:3]
        check.refused(plugin.output_shapes(flat, flat)[0], "a value of three dimensions")
        for sizes in ((N, Q, N), (N, Q, 1), (-1, Q, -1), (-1, -1, 1), (-1, -1, -1)):
            tensors = make_tensors(*sizes)
            check.expect(
                plugin.with_tensors("configure", tensors) == 0, f"cannot be configured for {tensors}"
            )
            check.expect(
                plugin.with_tensors("workspace", tensors) == 0, "requests a workspace that it does not need"
            )
        for sizes in ((N, Q, N), (N, Q, 1), (1, 1, 1)):
            tensors = make_tensors(*sizes)
            check.expect(plugin.with_tensors("shape_change", tensors) == 0, f"cannot run with {tensors}")
        check.expect((count := plugin.number("tactics")) == 0, f"{count} tactics")
        check.expect(plugin.number("aliased", 0) == -1, "the output shares memory with an input")


def _plain(fields: Sequence[Field]) -> list[tuple[str, int, list[int]]]:
    return [(f.name, f.type, [] if f.values is None else f.values.tolist()) for f in fields]


def _serialisation(check: Check) -> None:
    many: Shapes = tuple((i + 1, i + 2) for i in range(calls.MAX_LEVELS))
    texts = []
    for heads, points, shapes in ((M, P, calls.SHAPES), (1, 1, ((1, 1),)), (3, 13, many)):
        with check.plugin(make_fields(heads, points, shapes, FieldType.INT64)) as plugin:
            stored, text = plugin.stored_fields(), (plugin.cache_id, plugin.metadata)
        values = {name: numbers for name, _, numbers in _plain(stored)}
        sides = [side for shape in shapes for side in shape]
        check.expect(values == {"heads": [heads], "points": [points], "shapes": sides}, f"stores {values}")
        with check.plugin(stored, Phase.RUNTIME) as restored, check.required(restored.copy("clone")) as clone:
            for name, plugin in (("an engine's plugin", restored), ("a clone", clone)):
                same = _plain(plugin.stored_fields()) == _plain(stored)
                check.expect(same, f"{name} has other fields")
                check.expect((plugin.cache_id, plugin.metadata) == text, f"{name} has other texts")
        texts.append(text)
    check.expect(None not in {text for pair in texts for text in pair}, "has no key for the timing cache")
    check.expect(len({key for key, _ in texts}) == len(texts), "plugins that differ have the same timing key")


@contextlib.contextmanager
def _plugin_for(check: Check, case: Case, way: str) -> Iterator[Plugin]:
    """Yield a plugin for a case, made in one of the `_WAYS` in which TensorRT gets one."""
    with check.plugin(make_fields(case.value.shape[2], case.points, case.shapes)) as plugin:
        if way == "create":
            yield plugin
            return
        fields = plugin.stored_fields()
        copy = check.library.create(fields, Phase.RUNTIME) if way == "restore" else plugin.copy(way)
    with check.required(copy) as plugin:  # the original no longer exists
        yield plugin


def _outputs(check: Check) -> None:
    memory = check.memory
    assert memory is not None
    for i, case in enumerate(make_cases()):
        value, merged = pack(case.value, case.dtype), pack(case.merged, case.merged_dtype)
        poison = np.full(case.output_shape, 0x7B7B, np.uint16 if value.itemsize == 2 else np.uint32)
        types = (_TYPES[case.dtype], _TYPES[case.merged_dtype], T.FLOAT, _TYPES[case.dtype])
        sizes = value.shape, merged.shape, case.reference.shape, case.output_shape
        tensors = list(map(Tensor, types, sizes))
        with memory.scope(), _plugin_for(check, case, _WAYS[i % 4]) as plugin:
            inputs = [memory.put(array) for array in (value, merged, case.reference)]
            out = memory.put(poison)
            status = plugin.with_tensors("shape_change", tensors) or plugin.enqueue(tensors, inputs, [out])
            check.expect(status == 0, f"{case.title}: status {status}, {check.library.log()}")
            output = unpack(memory.get(out, poison.view(value.dtype)), case.dtype)
        error, problem = difference(output, case.expected)
        good = not problem and error <= TOLERANCES[case.dtype]
        check.expect(good, f"{case.title}: {problem or f'relative error {error:.1e}'}")
    with check.plugin() as plugin:
        for what, tensors in calls.empty_calls().items():
            status = plugin.with_tensors("shape_change", tensors) or plugin.enqueue(tensors, [0, 0, 0], [0])
            check.expect(status == 0, f"{what}: status {status}")


def _probes(check: Check) -> None:
    memory = check.memory
    assert memory is not None
    good = make_tensors()
    with check.plugin() as plugin, memory.scope():
        arrays = [np.zeros(tensor.sizes, np.float32) for tensor in good]
        *inputs, out = [memory.put(array) for array in (*arrays[:3], arrays[3] + 7)]
        for what, tensors in calls.absurd_calls().items():
            check.refused(plugin.enqueue(tensors, inputs, [out]), what)
        for i, what in enumerate(("value", "merged", "reference")):
            moved = [pointer + 4 * (i == j) for j, pointer in enumerate(inputs)]
            check.refused(plugin.enqueue(good, moved, [out]), f"a {what} that is not aligned")
            missing = [0 if i == j else pointer for j, pointer in enumerate(inputs)]
            check.refused(plugin.enqueue(good, missing, [out]), f"a null {what}")
        check.refused(plugin.enqueue(good, inputs, [0]), "a null output")
        untouched = bool((memory.get(out, arrays[3]) == 7).all())
        check.expect(untouched, "writes to the output in a refused call")
        check.expect(plugin.enqueue(good, inputs, [out]) == 0, "fails after a refused call")
        check.expect(
            bool((memory.get(out, arrays[3]) == 0).all()), "gives a wrong output after a refused call"
        )


_CHECKS = (_interfaces, _creation, _refusals, _formats, _types, _shapes, _serialisation, _outputs, _probes)
_NEED_MEMORY = ("outputs", "probes")


def examine(library: PluginLibrary, memory: Memory | None) -> list[Check]:
    """Use a library as TensorRT would, and check the results.

    Args:
        library: Loaded library.
        memory: Memory for the plugins' tensors; None: skip the checks that compute something.

    Returns:
        Checks that were made, up to the first failure that prevents further checks.
    """
    checks: list[Check] = []
    for run in _CHECKS:
        name = run.__name__.removeprefix("_")
        if name in _NEED_MEMORY and memory is None:
            continue
        checks.append(check := Check(name, library, memory))
        try:
            run(check)
        except PluginError as error:
            check.expect(False, str(error))
            break
        if name == "interfaces" and check.failures:
            break  # another kind of plugin
    return checks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m idol_plugins.trt.conformance",
        description="Check the TensorRT plugin against TensorRT's rules and the reference implementation, without "
        "TensorRT.",
    )
    parser.add_argument("library", type=Path, nargs="?", help="plugin library (default: the built one)")
    parser.add_argument("--harness", type=Path, help="libidol_trt_harness (default: the built one)")
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
    on_host = library.number("on_host") == 1
    place = "host" if on_host else "device"
    sys.stdout.write(f"{path.name}, {place} pointers, as TensorRT {version} would use it\n")
    memory: Memory | None = None
    why = ""
    try:
        memory = HostMemory() if on_host else CudaMemory()
    except PluginError as error:
        why = str(error)
    checks = examine(library, memory)
    for check in checks:
        state = "FAIL" if check.failures else "ok  "
        sys.stdout.write(f"{state}  {check.name:14}{check.count - len(check.failures)} of {check.count}\n")
        sys.stdout.write("".join(f"      {failure}\n" for failure in check.failures[:10]))
    if why:
        sys.stdout.write(f"skipped: {', '.join(_NEED_MEMORY)}; {why}\n")
    return int(any(check.failures for check in checks))


if __name__ == "__main__":
    sys.exit(main())
