"""Checks and sizes of an environment that `scripts/test-install` creates, run with that environment's Python.

installed.py WHEEL EXTRA < list of the packages' files, relative to the repository
"""

import importlib
import importlib.metadata
import importlib.util
import sys
import zipfile
from pathlib import Path

_PACKAGES = ("idol_deploy", "idol_export", "idol_plugins", "idol_runtime")
_BASE = {"idol-deploy", "msgspec", "numpy", "pillow", "threadpoolctl"}
_ABSENT = {"torch", "cv2", "pycocotools", "tqdm", "safetensors", "onnx", "onnxruntime", "openvino"}
_ENGINES = {"cpu": "onnxruntime", "openvino": "openvino"}
# Most MB that an extra takes with the base; a higher value needs a reason.
_MOST_MB = {"cpu": 190, "openvino": 295, "serve": 110}


def main() -> None:
    """Run all checks; exit with a message at the first failure."""
    wheel, extra = sys.argv[1:]
    _check_wheel(Path(wheel), sys.stdin.read().split())
    _check_imports(extra)
    _report_sizes(extra)


def _check_wheel(wheel: Path, sources: list[str]) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    # export/idol_export/graph/adapter.py is idol_export/graph/adapter.py in the wheel.
    expected = {source[source.index("idol_") :] for source in sources}
    expected |= {f"{package}/{file}" for package in _PACKAGES for file in ("__init__.py", "py.typed")}
    missing = sorted(expected - names)
    if missing:
        sys.exit(
            f"[test-install] missing in the wheel: {', '.join(missing)}; add them to the packages in pyproject.toml"
        )
    foreign = sorted(
        name for name in names if not name.startswith(tuple(f"{package}/" for package in _PACKAGES))
    )
    if any(".dist-info/" not in name for name in foreign):
        sys.exit(
            f"[test-install] unexpected files in the wheel: {', '.join(foreign)}; only the four packages belong there"
        )
    print(f"[test-install] wheel: {len(names)} files, {wheel.stat().st_size / 1e3:.0f} kB")


def _check_imports(extra: str) -> None:
    for module in sorted(_ABSENT - {_ENGINES.get(extra)}):
        if importlib.util.find_spec(module):
            sys.exit(
                f"[test-install] unexpected package: {module}; the base and [{extra}] must not depend on it"
            )
    for package in _PACKAGES:
        module = importlib.import_module(package)
        if not Path(str(module.__file__)).is_relative_to(sys.prefix):
            sys.exit(f"[test-install] {package} is imported from {module.__file__} instead of the wheel")
    runtime = importlib.import_module("idol_runtime")
    for name in runtime.__all__:
        getattr(runtime, name)
    print(f"[test-install] idol_runtime {runtime.__version__} imports completely without torch")


def _report_sizes(extra: str) -> None:
    sizes = {
        str(distribution.metadata["Name"]).lower(): _size(distribution)
        for distribution in importlib.metadata.distributions()
        if str(distribution.metadata["Name"]).lower() not in {"pip", "setuptools"}
    }
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        source = "" if name in _BASE else f"  [{extra}]"
        print(f"[test-install]   {name:20} {size / 1e6:7.1f} MB{source}")
    base = sum(sizes.get(name, 0) for name in _BASE)
    total = sum(sizes.values())
    print(f"[test-install] installed size: {base / 1e6:.1f} MB, with [{extra}] {total / 1e6:.1f} MB")
    if total > 1e6 * _MOST_MB[extra]:
        sys.exit(
            f"[test-install] [{extra}] takes {total / 1e6:.1f} MB, at most {_MOST_MB[extra]} MB; leave a package out"
        )


def _size(distribution: importlib.metadata.Distribution) -> int:
    paths = (Path(str(distribution.locate_file(file))) for file in distribution.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


if __name__ == "__main__":
    main()
