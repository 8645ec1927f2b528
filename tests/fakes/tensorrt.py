"""A fake of TensorRT's Python package with the classes of `typings/tensorrt.pyi`.

It has no name that the real binding lacks, and checks arguments as pybind11 does: names, number, types. `_does` has the
implemented methods; all other methods of the binding raise NotImplementedError. Networks run on ONNX Runtime, or return
the arrays of the file FAKE_TENSORRT_ANSWERS. Tests set `wrong` to build engines with wrong outputs, and `unrecordable`
to make captures fail.
"""

import ast
import json
import os
import re
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from cuda.bindings import driver

_STUB = Path(__file__).parents[2] / "typings" / "tensorrt.pyi"
_OPTIONAL = {
    "IProgressMonitor",
    "HardwareCompatibilityLevel",
    "BuilderFlag.TF32",
    "BuilderFlag.VERSION_COMPATIBLE",
    "IBuilderConfig.profiling_verbosity",
}
# Version, the mark in the stub of the names of 10.16 that it lacks, and more such names. PyPI has no binding of 11.5;
# its release notes name no change of the names of 11.4.
_RELEASES = {
    "10.3": ("10.3.0", "10.3", set()),
    "10.16": ("10.16.1.11", "", set()),
    "11.5": ("11.5.0", "11", set()),
    "bare": ("10.99.0", "", _OPTIONAL),
    "8.6": ("8.6.1", "", set()),
}
_RELEASE = os.environ.get("FAKE_TENSORRT", "10.16")
__version__, _MARK, _LACKS = _RELEASES[_RELEASE]
_ELEVEN = __version__.startswith("11")

wrong = None  # (output, factor)
unrecordable = False
refused = None  # error of the builder; None: it builds
_logger = None


def _log(severity, message):
    if _logger is not None:
        _logger.log(getattr(ILogger.Severity, severity), message)  # noqa: F821


# ---- the API, read from the stub


def _fits(value, annotation):
    kinds = {"int": int, "str": str, "bool": bool, "float": (int, float), "list": list, "tuple": tuple}
    for part in re.sub(r"\[.*?\]", "", annotation).split("|"):
        part = part.strip()
        if part == "Any" or (part == "None" and value is None):
            return True
        if part == "Buffer":
            try:
                memoryview(value)
            except TypeError:
                continue
            return True
        if part == "int" and isinstance(value, bool | float | str):
            continue
        kind = kinds.get(part) or _resolve(part)
        if isinstance(value, kind):
            return True
    return False


def _resolve(name):
    found = globals()
    outer, _, inner = name.partition(".")
    kind = found[outer]
    return getattr(kind, inner) if inner else kind


def _bind(name, overloads, arguments, keywords):
    """Return the arguments in order, or raise the TypeError of pybind11."""
    for parameters in overloads:
        names = [parameter[0] for parameter in parameters]
        if len(arguments) > len(names) or not set(keywords) <= set(names[len(arguments) :]):
            continue
        given = dict(zip(names, arguments, strict=False)) | keywords
        if any(parameter not in given and not default for parameter, _, default in parameters):
            continue
        if all(_fits(given[parameter], kind) for parameter, kind, _ in parameters if parameter in given):
            return [given[parameter] for parameter in names if parameter in given]
    shown = ", ".join([type(value).__name__ for value in arguments] + [f"{key}=" for key in keywords])
    raise TypeError(f"{name}(): incompatible function arguments ({shown})")


def _parameters(function):
    arguments = [argument for argument in function.args.args if argument.arg != "self"]
    optional = len(function.args.defaults)
    return [
        (argument.arg, ast.unparse(argument.annotation), index >= len(arguments) - optional)
        for index, argument in enumerate(arguments)
    ]


class _Object:
    """An object of the binding; it has only the attributes of its class."""

    _fields = {}  # noqa: RUF012

    def __setattr__(self, name, value):
        if not name.startswith("_"):
            if name not in self._fields:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            if not _fits(value, self._fields[name]):
                raise TypeError(f"{type(self).__name__}.{name} does not take {type(value).__name__}")
        object.__setattr__(self, name, value)


class _Member:
    """A member of an enumeration."""

    def __init__(self, owner, name, value):
        self.owner, self.name, self.value = owner, name, value

    def __int__(self):
        return self.value

    __index__ = __int__

    def __eq__(self, other):
        return isinstance(other, _Member) and (self.owner, self.value) == (other.owner, other.value)

    def __hash__(self):
        return hash((self.owner, self.value))


class _EnumerationType(type):
    def __instancecheck__(cls, value):
        return isinstance(value, _Member) and value.owner == cls.__name__


def _method(owner, name, overloads):
    def call(self, *arguments, **keywords):
        if name != "__init__" and not self.__dict__.get("_made", False):
            raise TypeError(f"{owner}.__init__() must be called when overriding __init__")
        bound = _bind(f"{owner}.{name}", overloads, arguments, keywords)
        if name == "__init__":
            object.__setattr__(self, "_made", True)
        does = _does.get(f"{owner}.{name}")
        if does is None:
            raise NotImplementedError(f"the fake does not do {owner}.{name}")
        return does(self, *bound)

    call.__name__ = name
    return call


def _gone(name, line):
    return name in _LACKS or (_MARK and _MARK in line.partition("not in ")[2].split(", "))


def _make_class(node, lines, prefix=""):
    full = prefix + node.name
    body, members, fields, overloads = {}, {}, {}, {}
    for item in node.body:
        name = getattr(item, "name", None) or getattr(getattr(item, "target", None), "id", None)
        line = lines[item.lineno - 1] if name else ""
        if not name or _gone(f"{full}.{name}", line):
            continue
        if isinstance(item, ast.ClassDef):
            body[name] = _make_class(item, lines, f"{full}.")
        elif isinstance(item, ast.AnnAssign):
            annotation = ast.unparse(item.annotation)
            value = re.search(r"# (\d+)", line)
            if annotation.startswith("ClassVar") and value:
                owner = annotation.removeprefix("ClassVar[").removesuffix("]").rpartition(".")[2]
                members[name] = _Member(owner, name, int(value[1]))
            elif not annotation.startswith("ClassVar"):
                fields[name] = annotation
        elif any(ast.unparse(decorator) == "property" for decorator in item.decorator_list):
            does = f"{full}.{name}"
            body[name] = property(lambda self, does=does: _does[does](self))
        elif name != "__buffer__":
            overloads.setdefault(name, []).append(_parameters(item))
    if members and not fields and set(overloads) <= {"__init__", "__int__"}:
        return _EnumerationType(node.name, (), members)
    for name, signatures in overloads.items():
        body[name] = _method(full, name, signatures)
    return type(node.name, (_Object,), body | members | {"_fields": fields})


def _load():
    lines = _STUB.read_text().split("\n")
    for node in ast.parse("\n".join(lines)).body:
        if _gone(getattr(node, "name", ""), lines[node.lineno - 1]):
            continue
        if isinstance(node, ast.ClassDef):
            globals()[node.name] = _make_class(node, lines)
        elif isinstance(node, ast.FunctionDef):
            globals()[node.name] = _function(node.name, _parameters(node))


def _function(name, parameters):
    return lambda *arguments, **keywords: _does[name](*_bind(name, [parameters], arguments, keywords))


def _new(name, **state):
    """An object that only TensorRT can make."""
    made = object.__new__(globals()[name])
    for key, value in {"_made": True, **state}.items():
        object.__setattr__(made, key, value)
    return made


# ---- the implementation

_does = {"ILogger.__init__": lambda self: None, "IProgressMonitor.__init__": lambda self: None}


def _does_as(name):
    def register(function):
        _does[name] = function
        return function

    return register


def _take_logger(logger):
    global _logger  # TensorRT uses the first logger forever
    if not logger.__dict__.get("_made"):
        raise TypeError("ILogger.__init__() must be called when overriding __init__")
    _logger = _logger or logger


class _Plan:
    """The content of an engine file: a header and the graph."""

    MAGIC = b"ftrt"

    @staticmethod
    def pack(header, graph):
        body = json.dumps(header).encode() + b"\0" + graph
        return _Plan.MAGIC + zlib.crc32(body).to_bytes(4, "big") + body

    @staticmethod
    def unpack(data):
        if data[:4] != _Plan.MAGIC or zlib.crc32(data[8:]).to_bytes(4, "big") != data[4:8]:
            return None
        header, _, graph = data[8:].partition(b"\0")
        return json.loads(header), graph


@_does_as("Builder.__init__")
def _(self, logger):
    _take_logger(logger)
    try:
        driver.device.ready()
    except driver.DriverError as failure:
        _log("INTERNAL_ERROR", f"CUDA initialization failure with error: {int(failure.status)}")
        raise TypeError("pybind11::init(): factory function returned nullptr") from None


@_does_as("Builder.create_network")
def _(self, flags=0):
    strong = NetworkDefinitionCreationFlag.STRONGLY_TYPED  # noqa: F821
    assert flags >> 4 == 0, "no such flag"
    typed = _ELEVEN or bool(flags & 1 << int(strong))  # 11 ignores the flag: every network is typed
    return _new("INetworkDefinition", _typed=typed, _graph=None, _session=None)


@_does_as("OnnxParser.__init__")
def _(self, network, logger):
    _take_logger(logger)
    self._network, self._errors = network, []


class _Answers:
    """A network that returns the arrays of an npz file for every frame, for a process without ONNX Runtime."""

    def __init__(self, path):
        with np.load(path) as file:
            self._arrays = {name: file[name] for name in file.files}
        shape = [side or "batch" for side in self._arrays.pop("image").tolist()]  # 0: any
        self._image = SimpleNamespace(name="image", type="tensor(uint8)", shape=shape)

    def get_inputs(self):
        return [self._image]

    def get_outputs(self):
        kinds = self._arrays.items()
        return [SimpleNamespace(name=n, type="tensor(float)", shape=[1, *a.shape]) for n, a in kinds]

    def run(self, names, images):
        (image,) = images.values()
        return [np.repeat(self._arrays[name][None], len(image), axis=0) for name in names]


def _session(graph):
    if os.environ.get("FAKE_TENSORRT_ANSWERS"):
        return _Answers(os.environ["FAKE_TENSORRT_ANSWERS"])
    import onnxruntime

    from idol_runtime.backends.onnxruntime import DISABLED_OPTIMIZERS

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    library = Path(os.environ.get("IDOL_PLUGINS", "")) / "libidol_deform_attn_ort.so"
    if b"DeformAttn" in graph and library.is_file():
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(
        graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS
    )


@_does_as("OnnxParser.parse")
def _(self, model, path=None):
    graph = bytes(model)
    if b"DeformAttn" in graph and not _registry._libraries:
        self._errors.append("Plugin not found, are the plugin name, version, and namespace correct?")
        return False
    try:
        self._network._session = _session(graph)
    except Exception as error:  # noqa: BLE001
        self._errors.append(f"In node -1: {error}")
        return False
    self._network._graph = graph
    return True


_does["OnnxParser.num_errors"] = lambda self: len(self._errors)
_does["OnnxParser.get_error"] = lambda self, index: _new("ParserError", _desc=self._errors[index])
_does["ParserError.desc"] = lambda self: self._desc


@_does_as("Builder.create_builder_config")
def _(self):
    config = _new("IBuilderConfig", _flags=set(), _profiles=[], _pools={}, _timing=None)
    if hasattr(BuilderFlag, "TF32"):  # noqa: F821
        config._flags.add("TF32")  # on by default, as in TensorRT
    if "progress_monitor" in config._fields:
        object.__setattr__(config, "progress_monitor", None)
    for name in ("profiling_verbosity", "hardware_compatibility_level"):
        if name in config._fields:
            object.__setattr__(config, name, None)
    return config


_does["IBuilderConfig.set_flag"] = lambda self, flag: self._flags.add(flag.name)
_does["IBuilderConfig.clear_flag"] = lambda self, flag: self._flags.discard(flag.name)
_does["IBuilderConfig.get_flag"] = lambda self, flag: flag.name in self._flags
_does["IBuilderConfig.set_memory_pool_limit"] = lambda self, pool, size: self._pools.update({pool.name: size})
_does["IBuilderConfig.get_timing_cache"] = lambda self: self._timing


@_does_as("IBuilderConfig.create_timing_cache")
def _(self, data):
    data = bytes(data)
    if data and not data.startswith(b"timing"):
        _log("ERROR", "the timing cache is broken")
        return None
    return _new("ITimingCache", _data=data)


@_does_as("IBuilderConfig.set_timing_cache")
def _(self, cache, ignore_mismatch):
    self._timing = cache
    return True


_does["ITimingCache.serialize"] = lambda self: self._data or b"timing"


@_does_as("IBuilderConfig.add_optimization_profile")
def _(self, profile):
    self._profiles.append(profile)
    return len(self._profiles) - 1


_does["Builder.create_optimization_profile"] = lambda self: _new("IOptimizationProfile", _shapes={})


@_does_as("IOptimizationProfile.set_shape")
def _(self, name, least, best, most):
    if not all(a <= b <= c for a, b, c in zip(least, best, most, strict=True)):
        raise ValueError("min <= opt <= max is not so")
    self._shapes[name] = [list(least), list(best), list(most)]


def _dynamic(session):
    return any(not isinstance(side, int) for tensor in session.get_inputs() for side in tensor.shape)


terminated = (
    False  # True after a callback raised, which would end the process, because the C++ caller is noexcept
)


def _watched(monitor):
    """Call the progress monitor and return True to continue."""
    global terminated
    try:
        monitor.phase_start("Building Engine", None, 3)
        monitor.phase_start("Tactics", "Building Engine", 3)
        for step in range(3):
            if not monitor.step_complete("Tactics", step):
                return False
        monitor.phase_finish("Tactics")
        monitor.phase_finish("Building Engine")
    except BaseException:
        terminated = True
        raise
    return True


@_does_as("Builder.build_serialized_network")
def _(self, network, config):
    if refused:
        _log("ERROR", refused)
        return None
    if network._session is None or not network._typed:
        _log("ERROR", "the network is empty or not strongly typed")
        return None
    if _dynamic(network._session) and not config._profiles:
        _log("ERROR", "Network has dynamic or shape inputs, but no optimization profile has been defined.")
        return None
    monitor = getattr(config, "progress_monitor", None)
    if monitor is not None and not _watched(monitor):
        return None
    _log("WARNING", "a warning of\nno importance")
    level = getattr(config, "hardware_compatibility_level", None)
    header = {
        "version": __version__,
        "gpu": driver.device.name,
        "hardware": level.name if level is not None else "NONE",
        "portable": "VERSION_COMPATIBLE" in config._flags,
        "profiles": [profile._shapes for profile in config._profiles],
        # TF32 causes errors above the tolerance.
        "wrong": wrong or (("boxes", 1.005) if "TF32" in config._flags else None),
        "detailed": getattr(getattr(config, "profiling_verbosity", None), "name", "") == "DETAILED",
        "pools": config._pools,
    }
    return _Plan.pack(header, network._graph)


@_does_as("Runtime.__init__")
def _(self, logger):
    _take_logger(logger)
    driver.device.ready()
    object.__setattr__(self, "engine_host_code_allowed", False)


@_does_as("Runtime.deserialize_cuda_engine")
def _(self, serialized_engine):
    plan = _Plan.unpack(bytes(serialized_engine))
    if plan is None:
        _log(
            "ERROR", "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Magic tag does not match)"
        )
        return None
    header, graph = plan
    allowed = header["portable"] and self.engine_host_code_allowed
    if header["version"] != __version__ and not allowed:
        _log("ERROR", f"expecting library version {__version__} got {header['version']}, please rebuild.")
        return None
    if header["portable"] and not self.engine_host_code_allowed:
        _log("ERROR", "the engine contains host code, which is not allowed")
        return None
    return _new("ICudaEngine", _header=header, _session=_session(graph))


def _tensors(engine):
    return {tensor.name: tensor for tensor in (*engine._session.get_inputs(), *engine._session.get_outputs())}


_TYPES = {"tensor(uint8)": ("UINT8", np.uint8), "tensor(float)": ("FLOAT", np.float32)}
_does["ICudaEngine.num_io_tensors"] = lambda self: len(_tensors(self))
_does["ICudaEngine.get_tensor_name"] = lambda self, index: list(_tensors(self))[index]
_does["ICudaEngine.get_tensor_dtype"] = lambda self, name: getattr(
    DataType,  # noqa: F821
    _TYPES[_tensors(self)[name].type][0],
)


def _dims(shape):
    return _new("Dims", _shape=[side if isinstance(side, int) else -1 for side in shape])


_does["Dims.__len__"] = lambda self: len(self._shape)
_does["Dims.__getitem__"] = lambda self, index: self._shape[index]
_does["ICudaEngine.get_tensor_shape"] = lambda self, name: _dims(_tensors(self)[name].shape)
_does["ICudaEngine.create_engine_inspector"] = lambda self: _new("EngineInspector", _engine=self)


@_does_as("EngineInspector.get_engine_information")
def _(self, layout):
    assert layout.name == "JSON"
    layers = [{"Name": "conv", "LayerType": "CaskConvolution"}, {"Name": "attn", "LayerType": "PluginV3"}]
    detailed = self._engine._header["detailed"]
    tensors = "I/O Tensors" if _ELEVEN else "Bindings"
    return json.dumps({"Layers": layers if detailed else [layer["Name"] for layer in layers], tensors: []})


@_does_as("ICudaEngine.create_execution_context")
def _(self, *options):
    return _new("IExecutionContext", _engine=self, _addresses={}, _shape=None, _warm=None)


@_does_as("IExecutionContext.set_tensor_address")
def _(self, name, memory):
    if name not in _tensors(self._engine):
        _log("ERROR", f"there is no tensor {name}")
        return False
    self._addresses[name] = memory
    return True


@_does_as("IExecutionContext.set_input_shape")
def _(self, name, shape):
    shape = list(shape)
    fixed = _tensors(self._engine)[name].shape
    profiles = self._engine._header["profiles"]
    fits = all(not isinstance(side, int) or side == given for side, given in zip(fixed, shape, strict=True))
    if fits and profiles:
        least, _, most = profiles[0][name]
        fits = all(a <= given <= b for a, given, b in zip(least, shape, most, strict=True))
    if not fits:
        _log("ERROR", f"setInputShape: {shape} does not satisfy any optimization profiles")
        return False
    if shape != self._shape:
        self._shape, self._warm = shape, False
    return True


@_does_as("IExecutionContext.execute_async_v3")
def _(self, stream_handle):
    tensors = _tensors(self._engine)
    if self._shape is None or set(self._addresses) != set(tensors):
        _log("ERROR", "not all shapes and addresses are set")
        return False
    if driver.device.capturing(stream_handle) and (unrecordable or not self._warm):
        # A context must run with these shapes before it can be recorded.
        driver.device.captures[int(stream_handle)] = None
        if not self._warm:
            _log("ERROR", "Cask error in capture: the context has not run with these shapes")
            return False
    self._warm = True
    driver.device.queue(stream_handle, lambda: _execute(self))
    return True


def _execute(context):
    session, spoiled = context._engine._session, context._engine._header["wrong"]
    (source,) = session.get_inputs()
    size = int(np.prod(context._shape))
    image = np.frombuffer(driver.device.at(context._addresses[source.name], size), np.uint8)
    names = [tensor.name for tensor in session.get_outputs()]
    for name, array in zip(
        names, session.run(names, {source.name: image.reshape(context._shape)}), strict=True
    ):
        if spoiled and spoiled[0] == name:
            array = array * np.float32(spoiled[1])
        data = np.ascontiguousarray(array).tobytes()
        driver.device.at(context._addresses[name], len(data))[:] = data


@_does_as("IPluginRegistry.load_library")
def _(self, plugin_path):
    if not Path(plugin_path).is_file() or b"broken" in Path(plugin_path).read_bytes()[:64]:
        _log("ERROR", f"Could not load plugin library: {plugin_path}")
        return None
    self._libraries.append(plugin_path)
    return object()


@_does_as("IPluginRegistry.get_creator")
def _(self, kind, version, plugin_namespace=""):
    ours = (kind, version, plugin_namespace) == ("DeformAttn", "1", "idol_deploy")
    return object() if ours and self._libraries else None


_does["get_plugin_registry"] = lambda: _registry

_load()
_registry = _new("IPluginRegistry", _libraries=[])
