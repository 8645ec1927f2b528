"""Generate typings/tensorrt.pyi: names and signatures of the part of TensorRT's Python package that this project uses.

    scripts/tensorrt_api.py STUB [RELEASE=STUB...] > typings/tensorrt.pyi

A STUB is what pybind11-stubgen writes for the binding of a release (`scripts/test-tensorrt-api` makes it); it is half a
megabyte with docstrings, and type checkers reject parts of it. Members that another RELEASE lacks are marked. mypy
checks all calls against the result, and the tests' fake of TensorRT is built from it.
"""

import ast
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
_SKIPPED = re.compile(r"^(add_(?!optimization_profile)|__(?!init__|getitem__|len__|int__|iter__))")
# Arguments are written as what callers pass; since 10.14 the binding names their protocols.
_SHORTER = {
    "typing_extensions.Buffer": "Buffer",
    "collections.abc.Buffer": "Buffer",
    "collections.abc.Sequence": "list",
    "typing.": "",
    "SupportsInt": "int",
    "SupportsFloat": "float",
    "ErrorCodeTRT": "Any",
}
_PLAIN = {"int", "str", "bool", "float", "None", "bytes", "list", "tuple", "object"}


def _repaired(stub: str) -> str:
    """Fix the stub's syntax: `in` is no valid parameter, and parameters after a default need one as well."""
    stub = re.sub(r"([(,] ?)in: ", r"\1in_: ", stub)
    lines = stub.split("\n")
    for index, line in enumerate(lines):
        if re.match(r"    def add_scale_nd\(", line):
            lines[index] = line.replace(") -> IScaleLayer", " = ...) -> IScaleLayer")
    return "\n".join(lines)


def _type(node: ast.expr | None) -> str:
    """Return an annotation, or `Any` if it uses a type that this file does not know."""
    text = "Any" if node is None else ast.unparse(node)
    for long, short in _SHORTER.items():
        text = text.replace(long, short)
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
    return [*kept, f"    def {function.name}({_parameters(function)}) -> {result}: ...{mark}"]


def _hidden(function: ast.FunctionDef, owner: ast.ClassDef) -> bool:
    """Return True for an overload, except the first, with a parameter type that this file does not know."""
    rivals = [item for item in owner.body if isinstance(item, ast.FunctionDef) and item.name == function.name]
    return function is not rivals[0] and ": Any" in _parameters(function)


def _field(name: str, annotation: ast.expr | None, line: str, mark: str) -> list[str]:
    text = "" if annotation is None else ast.unparse(annotation)
    if not text.startswith("typing.ClassVar"):
        return [f"    {name}: {_type(annotation)}" + (f"  # {mark}" if mark else "")]
    value = re.search(r"# value = <\w+\.\w+: (\d+)>", line)
    owner = text.removeprefix("typing.ClassVar[").removesuffix("]")
    return [f"    {name}: ClassVar[{owner}]  # {value[1]}{f', {mark}' if mark else ''}"] if value else []


def _names(stub: str) -> set[str]:
    """Return the functions and classes of a stub, and the classes' members as `Class.member`."""
    names = set()
    for node in ast.parse(_repaired(stub)).body:
        name = getattr(node, "name", "")
        members = node.body if isinstance(node, ast.ClassDef) else []
        names |= {name, *(f"{name}.{_name(member)}" for member in members)}
    return names


def _name(item: ast.stmt) -> str:
    return getattr(item, "name", "") or getattr(getattr(item, "target", None), "id", "")


def _mark(name: str, releases: dict[str, set[str]]) -> str:
    lacking = [release for release, names in releases.items() if name not in names]
    return f"not in {', '.join(lacking)}" if lacking else ""


def _class(node: ast.ClassDef, stub: list[str], releases: dict[str, set[str]]) -> list[str]:
    bases = ", ".join(base for base in map(ast.unparse, node.bases) if base in CLASSES)
    mark = _mark(node.name, releases)
    lines = [f"class {node.name}({bases}):" if bases else f"class {node.name}:"]
    lines[0] += f"  # {mark}" if mark else ""
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    setters = {item.name for item in methods if _decorated(item, ".setter")}
    for item in node.body:
        if isinstance(item, ast.ClassDef):
            lines += ["    " + line for line in _class(item, stub, {})]
            continue
        name = _name(item)
        if not name or _SKIPPED.match(name):
            continue
        special = mark or name.startswith("__")
        member_mark = "" if special else _mark(f"{node.name}.{name}", releases)
        if isinstance(item, ast.AnnAssign):
            lines += _field(name, item.annotation, stub[item.lineno - 1], member_mark)
        elif isinstance(item, ast.FunctionDef) and name in setters:
            if _decorated(item, "property"):
                lines += _field(name, item.returns, "", member_mark)
        elif isinstance(item, ast.FunctionDef) and not _hidden(item, node):
            rivals = [other for other in methods if other.name == name and not _hidden(other, node)]
            lines += _method(node.name, item, f"  # {member_mark}" if member_mark else "", len(rivals) > 1)
    if node.name == "IHostMemory":  # Python shows the method only since 3.12
        lines.append("    def __buffer__(self, flags: int, /) -> memoryview: ...")
    return [*lines, "    ..."] if len(lines) == 1 else lines


def _decorated(function: ast.FunctionDef, end: str) -> bool:
    return any(ast.unparse(decorator).endswith(end) for decorator in function.decorator_list)


def generate(stub: str, others: dict[str, str]) -> str:
    """Return the text of the file.

    Args:
        stub: Stub of the release whose names and signatures the file gets.
        others: Stubs of releases whose missing members are marked, by release.
    """
    releases = {release: _names(text) for release, text in others.items()}
    stub = _repaired(stub)
    lines = stub.split("\n")
    nodes = {_name(node): node for node in ast.parse(stub).body}
    out = [
        "# Made by scripts/test-tensorrt-api from the bindings of TensorRT; a number is a member's value.",
        "from typing import Any, ClassVar, overload",
        "from typing_extensions import Buffer",
        "",
        "__version__: str",
    ]
    for name in (*CLASSES, *FUNCTIONS):
        node = nodes.get(name)
        if isinstance(node, ast.ClassDef):
            out += ["", *_class(node, lines, releases)]
        elif isinstance(node, ast.FunctionDef):
            result = "IPluginRegistry" if name == "get_plugin_registry" else _type(node.returns)
            mark = _mark(name, releases)
            out += ["", f"def {name}({_parameters(node)}) -> {result}: ...{f'  # {mark}' if mark else ''}"]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    first, *rest = sys.argv[1:]
    named = dict(argument.split("=", 1) for argument in rest)
    texts = {release: Path(path).read_text() for release, path in named.items()}
    sys.stdout.write(generate(Path(first).read_text(), texts))
