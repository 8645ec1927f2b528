"""Rules of the repository that no linter checks: language, file lengths and repository size.

    python scripts/guards.py

Checks the files that git tracks or would add, prints `FILE:LINE: problem` for each problem, and exits with 1 if there
is one.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

__all__ = ["check_docstrings", "check_lengths", "check_phrases", "check_size", "main"]

ROOT = Path(__file__).parents[1]
PACKAGES = ("idol_deploy/", "export/idol_export/", "plugins/idol_plugins/", "runtime/idol_runtime/")
CODE = {".py", ".cpp", ".h", ".cu", ".cuh", ".sh"}

OPENING = re.compile(r"(Of|What|Whether|How|That|Which|All|Those)\b")

# Phrases and names that the project does not use, with the replacement.
PHRASES = {
    r"fewer bits": "reduced precision (fp16, bf16, int8)",
    r"answers? wrongly|answering wrongly": "the output differs from PyTorch by …",
    r"weights from nothing": "random initialisation",
    r"model in the box": "bundled demo model",
    r"homes? of the kernel|\bhomes\.py\b": "kernel target",
    r"takes? each other back": "the error on the calibration data is smallest",
    r"\b(?:in turns|in_turns)\b": "interleaved",
    r"(?<![A-Za-z])dialects?(?![A-Za-z])": "quantization target",
    r"\btwin\b": "reference implementation",
    r"(?<![A-Za-z])canary(?![A-Za-z]|\.npz)": "golden frame, golden check",
    r"\bRememberingBackend\b": "CachingBackend",
    r"\bIdJudge\b|\bJUDGES\b": "a name with evaluate, scores or agreement",
    r"\bHandover\b": "bounded queue",
    r"\b(shown|ways|chance|suffixes|overlap|returns)\.py\b": "the file's new name",
    r"(a|one) frame does not fill": "with spare capacity",
    r"proves? nothing|said plainly|without a word|is of no bundle": "a plain statement",
    r"\bIDOL_SPEC\b": "docs/idol.md",
}
# Names that stay for compatibility: hidden options, and fields and members of files.
COMPATIBLE = re.compile(r'argparse\.SUPPRESS|name="(dialect|canary)"|canary\.npz')
HISTORY = {"CHANGELOG.md", "scripts/guards.py", "tests/test_guards.py", "tests/idol_deploy/test_cli.py"}

MOST_LINES, FEWEST_LINES = 400, 40
# Patterns of justified exceptions, with the reason.
LONG = {
    "tests/fakes/*.py": "fake of one API",
    "tests/export/engine/test_build.py": "one command, its fixtures and its refusals",
    "tests/export/verify/test_decisions.py": "one table of decisions and near-ties",
    "tests/idol_deploy/weights/test_checkpoint.py": "one file format and its broken forms",
    "tests/plugins/test_cpu.py": "one kernel, its types and hostile cases",
}
SHORT = {
    "idol_deploy/commands/*.py": "one module per subcommand",
    "export/idol_export/precision/registry.py": "the list that a new precision joins",
    "runtime/idol_runtime/blas.py": "detection and association both import it",
    "runtime/idol_runtime/tracking/boxes.py": "detection and association both import it",
    "plugins/idol_plugins/errors.py": "root of the exception tree, which every module imports",
}

MOST_BYTES = 48_000_000


def check_docstrings(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Find docstrings whose summary line does not begin with a verb or a noun phrase."""
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring and (match := OPENING.match(docstring)):
                yield (
                    node.body[0].lineno,
                    f"docstring begins with {match[0]!r}; begin with a verb or a noun phrase",
                )


def check_phrases(text: str) -> Iterator[tuple[int, str]]:
    """Find phrases and names that the project does not use, also where a line break splits them."""
    lines = text.split("\n")
    for pattern, replacement in PHRASES.items():
        # Between two words, a line break and the comment mark of the next line may stand for the space.
        for match in re.finditer(pattern.replace(" ", r"(?: |\s*\n[\s#/*>]*)"), text):
            number = text.count("\n", 0, match.start()) + 1
            if not COMPATIBLE.search(lines[number - 1]):
                yield number, f"{' '.join(match[0].split())!r}; write: {replacement}"


def check_lengths(lines: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Find source files that are too long, modules that are too short, and exceptions that are obsolete."""
    modules = {path for path in lines if path.startswith(PACKAGES) and not Path(path).name.startswith("__")}
    too_long = [path for path, count in lines.items() if count > MOST_LINES]
    too_short = [path for path in modules if path.endswith(".py") and lines[path] < FEWEST_LINES]
    for name, paths, exceptions, fix in (
        ("LONG", too_long, LONG, f"at most {MOST_LINES}; split the file"),
        ("SHORT", too_short, SHORT, f"at least {FEWEST_LINES}; merge the module into a neighbour"),
    ):
        for path in paths:
            if not any(fnmatch(path, pattern) for pattern in exceptions):
                yield path, f"{lines[path]} lines, {fix}"
        for pattern in exceptions:
            if not any(fnmatch(path, pattern) for path in paths):
                yield "scripts/guards.py", f"obsolete exception in {name}: {pattern}; remove it"


def check_size(sizes: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Find a repository that is too large; name its largest files."""
    total = sum(sizes.values())
    if total > MOST_BYTES:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        yield (
            largest[0],
            (
                f"tracked files have {total / 1e6:.1f} MB, at most {MOST_BYTES / 1e6:.0f}; the largest are "
                + ", ".join(f"{path} ({sizes[path] / 1e6:.1f} MB)" for path in largest)
            ),
        )


def main() -> int:
    """Check all files and return the exit status."""
    paths = _files()
    problems: list[tuple[str, int, str]] = []
    lines: dict[str, int] = {}
    for path in paths:
        if not _is_text(path):
            continue
        text = (ROOT / path).read_text(encoding="utf-8")
        if Path(path).suffix in CODE:
            lines[path] = len(text.splitlines())
        if path not in HISTORY:
            problems += [(path, *problem) for problem in check_phrases(text)]
        if path.endswith(".py") and not path.startswith("tests/"):
            problems += [(path, *problem) for problem in check_docstrings(path, text)]
    problems += [(path, 1, message) for path, message in check_lengths(lines)]
    problems += [
        (path, 1, message) for path, message in check_size({p: (ROOT / p).stat().st_size for p in paths})
    ]
    for path, line, message in sorted(problems):
        print(f"{path}:{line}: {message}")
    print(f"{len(problems)} problems in {len(paths)} files")
    return 1 if problems else 0


def _files() -> list[str]:
    """Return the files that git tracks or would add; outside a git checkout, the visible files."""
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        roots = [
            path for path in ROOT.iterdir() if path.name[0] != "." and path.name not in {"build", "dist"}
        ]
        paths = [path for root in roots for path in (root.rglob("*") if root.is_dir() else [root])]
        return [str(path.relative_to(ROOT)) for path in paths if path.is_file() and path.suffix != ".pyc"]
    return [path for path in listing.split("\0") if path and (ROOT / path).is_file()]


def _is_text(path: str) -> bool:
    """Return whether a file is source, Markdown or a shell script."""
    if Path(path).suffix in CODE | {".md"}:
        return True
    return path.startswith(("scripts/", ".ci/")) and (ROOT / path).read_bytes().startswith(b"#!")


if __name__ == "__main__":
    sys.exit(main())
