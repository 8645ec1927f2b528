"""Structural rules: exported names, imports without torch, a light installation, tests that mirror the source."""

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "idol_deploy": ROOT / "idol_deploy",
    "idol_export": ROOT / "export" / "idol_export",
    "idol_plugins": ROOT / "plugins" / "idol_plugins",
    "idol_runtime": ROOT / "runtime" / "idol_runtime",
}
TESTS = {
    "idol_deploy": PACKAGES["idol_deploy"],
    "export": PACKAGES["idol_export"],
    "plugins": PACKAGES["idol_plugins"],
    "published": ROOT / "tests" / "published",
    "runtime": PACKAGES["idol_runtime"],
}
# Test files that do not mirror one module, and their subjects.
OTHER_SUBJECTS = {
    "idol_deploy/commands/test_faults.py": "cameras that fail during `run`; test_run.py has the rest",
    "idol_deploy/train/test_overfit.py": "training, tracking and scoring together",
    "idol_deploy/commands/test_serve_page.py": "the live page of `serve`, in a browser",
    "idol_deploy/commands/test_run_refusals.py": "what `run` refuses; test_run.py has the rest",
    "idol_deploy/commands/test_run_signals.py": "signals that end `run`; test_run.py has the rest",
    "idol_deploy/commands/test_run_state.py": "--state of `run`, in real processes; test_run.py has the rest",
    "runtime/bundle/test_bundle_contents.py": "contents of a bundle; the second half of test_bundle.py",
    "runtime/serve/test_page.py": "files of the page, which are no Python",
    "runtime/test_golden_check.py": "golden check of pipeline.py; test_pipeline.py has the rest",
}
# Modules outside of TORCH_FREE_ROOMS that must not import torch on load.
TORCH_FREE = {
    "idol_deploy.cli",
    "idol_deploy.config",
    "idol_deploy.data.annotations",
    "idol_deploy.data.holdout",
    "idol_deploy.data.masks",
    "idol_deploy.data.rle",
    "idol_deploy.data.ytvis",
    "idol_deploy.settings",
    "idol_deploy.weights.pretrained",
    "idol_deploy.weights.reference",
}
TORCH_FREE_ROOMS = (
    "idol_runtime",
    "idol_plugins",
    "idol_deploy.commands",
    "idol_deploy.evaluate",
    "idol_deploy.synth",
    "idol_export.engine",
)
DEVICE = {"numpy", "pillow", "msgspec", "threadpoolctl"}
HEAVY = ("cv2", "onnxruntime", "pycocotools", "supervision", "torch", "tqdm")


def _modules() -> dict[str, Path]:
    modules = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            modules[".".join(parts).removesuffix(".__init__")] = path
    # Importing __main__ would run the command.
    return {name: path for name, path in modules.items() if not name.endswith(".__main__")}


MODULES = _modules()


@pytest.mark.parametrize("name", MODULES)
def test_module_exports_its_public_names(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", None)
    assert exported is not None, f"{name} has no __all__"
    assert all(isinstance(entry, str) for entry in exported)
    assert len(set(exported)) == len(exported), f"duplicate names in {name}.__all__"
    missing = [entry for entry in exported if not hasattr(module, entry)]
    assert not missing, f"undefined names in {name}.__all__: {missing}"

    definitions = ast.parse(MODULES[name].read_text()).body
    public = {
        node.name
        for node in definitions
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    }
    assert public <= set(exported), (
        f"public names missing in {name}.__all__: {sorted(public - set(exported))}"
    )


def _imported_on_load(node: ast.AST) -> Iterator[str]:
    """Yield absolute names that are imported on load; skips imports for type checkers and in functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module or ""
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            body = child.body if isinstance(child.test, ast.UnaryOp) else child.orelse
            yield from _imported_on_load(ast.Module(body, []))
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imported_on_load(child)


def _torch_free() -> list[str]:
    return [
        name
        for name, path in MODULES.items()
        if name.startswith(TORCH_FREE_ROOMS) or path.name == "__init__.py" or name in TORCH_FREE
    ]


def test_torch_free_modules_exist() -> None:
    assert set(MODULES) >= TORCH_FREE


@pytest.mark.parametrize("name", _torch_free())
def test_module_does_not_import_torch_on_load(name: str) -> None:
    imported = {entry.partition(".")[0] for entry in _imported_on_load(ast.parse(MODULES[name].read_text()))}
    assert not imported & {"torch", "torchvision"}


def _run(code: str) -> str:
    """Run the code in a new interpreter with warnings as errors, and return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torch_free_modules_load_without_torch() -> None:
    _run(
        "import importlib, sys\n"
        "sys.modules['torch'] = None\n"
        f"for name in {_torch_free()!r}:\n"
        "    importlib.import_module(name)\n"
    )


def test_engine_builder_loads_without_idol_deploy() -> None:
    builder = [name for name in MODULES if name.startswith("idol_export.engine")]
    assert len(builder) > 3
    _run(
        "import importlib, sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'tensorrt', 'idol_deploy'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {builder!r}:\n"
        "    importlib.import_module(name)\n"
    )


def test_tracker_works_without_torch() -> None:
    printed = _run(
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from idol_runtime.tracking.association import Tracker\n"
        "from idol_runtime.config import AssociationConfig\n"
        "tracker = Tracker(AssociationConfig())\n"
        "boxes = np.array([[0.2, 0.2, 0.1, 0.1], [0.7, 0.7, 0.1, 0.1]], np.float32)\n"
        "seen = np.array([0.9, 0.8], np.float32), np.array([0, 1]), boxes, 9 * np.eye(2, 4, dtype=np.float32)\n"
        "print(*tracker.update(*seen))\n"
        "print(*tracker.update(*(array[::-1] for array in seen)))\n"
    )
    assert printed.split("\n")[:2] == ["0 1", "1 0"]


def test_pipeline_loads_no_optional_package() -> None:
    printed = _run(
        f"import sys\nimport idol_runtime.pipeline\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    )
    assert not printed.split()


def test_packages_load_nothing_heavy() -> None:
    packages = ", ".join(PACKAGES)
    heavy = (*HEAVY, "numpy", "PIL")
    printed = _run(
        f"import sys\nimport {packages}\nprint(*(name for name in {heavy!r} if name in sys.modules))"
    )
    assert not printed.split()


@pytest.mark.parametrize("package", ["idol_runtime", "idol_deploy"])
def test_package_lists_and_loads_its_names(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    assert module.__version__ == importlib.metadata.version("idol-deploy")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = module.nonsense


def _project() -> dict[str, object]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _lower_bounds(requirements: list[str]) -> dict[str, str]:
    matches = (re.match(r"([\w-]+)>=([\d.]+)", requirement) for requirement in requirements)
    return {match[1]: match[2] for match in matches if match}


def test_device_installs_four_packages() -> None:
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in _project()["dependencies"]}
    assert names == DEVICE


def test_oldest_constraints_are_the_lower_bounds() -> None:
    project = _project()
    extras = project["optional-dependencies"]
    bounds = _lower_bounds([*project["dependencies"], *extras["video"], *extras["cpu"]])
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints-oldest.txt").read_text(), re.MULTILINE))
    assert bounds.keys() <= pins.keys()
    for name, bound in bounds.items():
        assert (pins[name] + ".").startswith(bound + "."), f"{name}>={bound}, but {pins[name]} is tested"


@pytest.mark.parametrize(
    "rivals",
    [
        {"onnxruntime", "onnxruntime-gpu"},
        {
            "opencv-python",
            "opencv-python-headless",
            "opencv-contrib-python",
            "opencv-contrib-python-headless",
        },
    ],
    ids=lambda rivals: min(rivals),
)
def test_no_two_packages_overwrite_each_other(rivals: set[str]) -> None:
    installed = {str(package.metadata["Name"]).lower() for package in importlib.metadata.distributions()}
    assert len(installed & rivals) <= 1


def _test_files() -> list[str]:
    folders = (ROOT / "tests" / room for room in TESTS)
    return [str(path.relative_to(ROOT / "tests")) for folder in folders for path in folder.rglob("test_*.py")]


@pytest.mark.parametrize("test_file", sorted(_test_files()))
def test_tests_mirror_the_source(test_file: str) -> None:
    if test_file in OTHER_SUBJECTS:
        return
    room, *folders, name = Path(test_file).with_suffix("").parts
    source = TESTS[room].joinpath(*folders, name.removeprefix("test_"))
    assert source.with_suffix(".py").exists() or (source / "__init__.py").exists(), (
        f"no module for tests/{test_file}: expected {source.relative_to(ROOT)}.py; "
        "rename the test file or add it to OTHER_SUBJECTS"
    )


def test_exceptions_to_the_mirror_exist() -> None:
    assert set(OTHER_SUBJECTS) <= set(_test_files())
