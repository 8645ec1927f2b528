"""Generate typings/tensorrt.pyi: names and signatures of the part of TensorRT's Python package that this project uses.

    scripts/tensorrt_api.py STUB NAMES > typings/tensorrt.pyi

STUB is `tensorrt_bindings/tensorrt.pyi` of the package tensorrt-stubs, generated from the real binding; it is half a
megabyte with docstrings, and type checkers reject parts of it. NAMES is the output of `scripts/tensorrt_api.py --names`
with TensorRT-RTX's binding installed, which is of the generation of TensorRT 11: members that it lacks are marked. mypy
checks all calls against the result, and the tests' fake of TensorRT is built from it.
"""

import ast
import json
import re
import sys
from pathlib import Path

CLASSES = (
    "Builder",
    "BuilderFlag",
    "DataType",
    "Dims",
    "EngineInspector",
    "HardwareCompatibilityLevel",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IPluginRegistry",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
)
FUNCTIONS = ("get_plugin_registry", "init_libnvinfer_plugins")
# From NVIDIA's documentation; generated stubs do not contain it.
MAY_BE_NONE = {
    "Builder.build_serialized_network",
    "IBuilderConfig.create_timing_cache",
    "IBuilderConfig.get_timing_cache",
    "ICudaEngine.create_execution_context",
    "IPluginRegistry.get_creator",
    "IPluginRegistry.load_library",
    "Runtime.deserialize_cuda_engine",
}
# Skips the methods that add layers, which would be most of the file.
_SKIPPED = re.compile(r"^(add_(?!optimization_profile)|__(?!init__|buffer__|getitem__|len__|int__|iter__))")
_PLAIN = {"int", "str", "bool", "float", "None", "bytes", "list", "tuple", "object"}


def _repaired(stub: str) -> str:
    """Fix the stub's syntax: `in` is no valid parameter, and parameters after a default need one as well."""
    stub = re.sub(r"([(,] ?)in: ", r"\1in_: ", stub)
    lines = stub.split("\n")
    for index, line in enumerate(lines):
        if re.match(r"    def add_scale_nd\(", line):
            lines[index] = line.replace("channel_axis: int)", "channel_axis: int = ...)")
    return "\n".join(lines)


def _type(node: ast.expr | None) -> str:
    """Return an annotation, or `Any` if it uses a type that this file does not know."""
    text = "Any" if node is None else ast.unparse(node)
    text = text.replace("typing_extensions.Buffer", "Buffer").replace("typing.", "")
    text = text.replace("ErrorCodeTRT", "Any").replace("collections.abc.", "")
    names = set(re.findall(r"[A-Za-z_][\w.]*", text))
    known = _PLAIN | {"Any", "Buffer", *CLASSES, "ILogger.Severity"}
    if not names or not names <= known or "..." in text:
        return "Any"
    return {"list": "list[Any]", "tuple": "tuple[Any, ...]"}.get(text, text)


def _parameters(function: ast.FunctionDef) -> str:
    arguments = function.args
    parts = []
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in zip(arguments.args, defaults, strict=True):
        if argument.arg in ("self", "this"):
            parts.append("self")
            continue
        kind = _type(argument.annotation)
        if kind == "Dims":  # pybind11 converts tuples
            kind = "Dims | tuple[int, ...] | list[int]"
        if isinstance(default, ast.Constant) and default.value is None:
            kind += " | None"
        parts.append(f"{argument.arg}: {kind}" + (" = ..." if default is not None else ""))
    return ", ".join(parts)


def _method(owner: str, function: ast.FunctionDef, mark: str, overloaded: bool) -> list[str]:
    decorators = [ast.unparse(decorator).removeprefix("typing.") for decorator in function.decorator_list]
    kept = [
        f"    @{name}" for name in decorators if name == "property" or (name == "overload" and overloaded)
    ]
    result = _type(function.returns)
    if f"{owner}.{function.name}" in MAY_BE_NONE:
        result += " | None"
    if function.name == "__buffer__":
        return ["    def __buffer__(self, flags: int, /) -> memoryview: ..."]
    return [*kept, f"    def {function.name}({_parameters(function)}) -> {result}: ...{mark}"]


def _hidden(function: ast.FunctionDef, owner: ast.ClassDef) -> bool:
    """Return True for an overload, except the first, with a parameter type that this file does not know."""
    rivals = [item for item in owner.body if isinstance(item, ast.FunctionDef) and item.name == function.name]
    return function is not rivals[0] and ": Any" in _parameters(function)


def _field(name: str, node: ast.AnnAssign, stub: list[str], mark: str) -> str | None:
    value = re.search(r"# value = <\w+\.\w+: (\d+)>", stub[node.lineno - 1])
    annotation = ast.unparse(node.annotation)
    if annotation.startswith("typing.ClassVar"):
        owner = annotation.removeprefix("typing.ClassVar[").removesuffix("]")
        return f"    {name}: ClassVar[{owner}]  # {value[1]}{mark}" if value else None
    return f"    {name}: {_type(node.annotation)}{'  # ' if mark else ''}{mark.lstrip(', ')}"


def _class(node: ast.ClassDef, stub: list[str], names: dict[str, list[str]], indent: str = "") -> list[str]:
    bases = ", ".join(base for base in map(ast.unparse, node.bases) if base in CLASSES)
    lines = [f"class {node.name}({bases}):" if bases else f"class {node.name}:"]
    members = names.get(node.name)
    for item in node.body:
        if isinstance(item, ast.ClassDef):
            lines += ["    " + line for line in _class(item, stub, names)]
            continue
        name = (
            item.name
            if isinstance(item, ast.FunctionDef)
            else getattr(getattr(item, "target", None), "id", "")
        )
        if not name or _SKIPPED.match(name):
            continue
        gone = members is not None and name not in members and not name.startswith("__")
        if isinstance(item, ast.FunctionDef) and not _hidden(item, node):
            setter = any(ast.unparse(decorator).endswith(".setter") for decorator in item.decorator_list)
            if not setter:
                rivals = [
                    other
                    for other in node.body
                    if isinstance(other, ast.FunctionDef) and other.name == name and not _hidden(other, node)
                ]
                lines += _method(node.name, item, "  # not in 11" if gone else "", len(rivals) > 1)
        elif isinstance(item, ast.AnnAssign):
            line = _field(name, item, stub, ", not in 11" if gone else "")
            lines += [line] if line else []
    return [*lines, "    ..."] if len(lines) == 1 else lines


def generate(stub: str, names: dict[str, list[str]]) -> str:
    """Return the text of the file."""
    stub = _repaired(stub)
    lines = stub.split("\n")
    out = [
        "# Made by scripts/tensorrt_api.py from tensorrt-stubs 10.13.0.35.1; a number is a member's value.",
        "from typing import Any, ClassVar, overload",
        "from typing_extensions import Buffer",
        "",
        "__version__: str",
    ]
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ClassDef) and node.name in CLASSES:
            out += ["", *_class(node, lines, names)]
        elif isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS:
            mark = "" if node.name in names else "  # not in 11"
            result = "IPluginRegistry" if node.name == "get_plugin_registry" else _type(node.returns)
            out += ["", f"def {node.name}({_parameters(node)}) -> {result}: ...{mark}"]
    return "\n".join(out) + "\n"


def print_names() -> None:
    """Print the classes of TensorRT-RTX's binding and their members."""
    import tensorrt_rtx_bindings as binding

    members = {name: getattr(binding, name) for name in dir(binding) if not name.startswith("_")}
    print(
        json.dumps({name: dir(value) if isinstance(value, type) else [] for name, value in members.items()})
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--names"]:
        print_names()
    else:
        stub_file, names_file = sys.argv[1:]
        sys.stdout.write(generate(Path(stub_file).read_text(), json.loads(Path(names_file).read_text())))
