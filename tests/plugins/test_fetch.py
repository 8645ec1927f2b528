"""The archives that headers are fetched from; `make test` tests the download itself."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from idol_plugins.errors import PluginError
from idol_plugins.fetch import archives, fetch_onnxruntime, main

STANZAS = """\
Types: deb
# http://snapshot.example/debian/20250520T000000Z
URIs: http://mirror.example/debian/
  https://second.example/deb
Suites: bookworm bookworm-updates
Components: main
Signed-By: /keys/mirror.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb-src
URIs: http://sources.example/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""
LINES = """\
# deb http://comment.example/debian bookworm main
deb [arch=amd64 trusted=yes] http://inside.example/debian bookworm main contrib # ours
deb-src http://sources.example/debian bookworm main
deb https://packages.example/apt cloud main
deb http://bare.example/debian bookworm non-free
"""


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt here")
def test_the_systems_own_archives_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archives of a Debian 12 with sources in both formats."""
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "debian.sources").write_text(STANZAS)
    (tmp_path / "sources.list").write_text(LINES)
    (tmp_path / "apt.conf").write_text(f'Dir::Etc "{tmp_path}"; Dir::State "{tmp_path}"; Dir::Etc::parts "";')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    debian = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: debian)
    assert archives() == [
        "http://inside.example/debian",
        "http://mirror.example/debian",
        "https://second.example/deb",
        "http://deb.debian.org/debian",
    ]
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: debian | {"ID": "ubuntu"})
    assert archives() == ["http://deb.debian.org/debian"]


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_on_another_system_debians_archive_is_used(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    def unknown() -> None:
        raise error

    monkeypatch.setattr(platform, "freedesktop_os_release", unknown)
    assert archives() == ["http://deb.debian.org/debian"]


def _tools(folder: Path, monkeypatch: pytest.MonkeyPatch, apt: str) -> None:
    for name, script in (("apt-get", apt), ("dpkg-deb", 'mkdir -p "$3"/usr; cp -r include "$3"/usr')):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_headers_are_taken_out_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = (
        'case "$*" in *download*) mkdir -p include/onnxruntime; touch include/onnxruntime/onnxruntime_c_api.h x.deb;; '
        "*) ;; esac"
    )
    _tools(tmp_path, monkeypatch, apt)
    assert main([str(tmp_path / "into")]) == 0
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["onnxruntime_c_api.h"]


def test_the_failed_archives_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _tools(
        tmp_path, monkeypatch, "echo 'W: be careful' >&2; echo 'E: Could not resolve the host' >&2; exit 100"
    )
    assert main([str(tmp_path / "into")]) == 2
    message = capsys.readouterr().err
    assert "http://deb.debian.org/debian: " in message
    assert "Could not resolve the host" in message
    assert "--ort-include" in message
    assert not (tmp_path / "into").exists()


def test_without_apt_it_says_where_else_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PluginError, match=r"apt-get is not here; give their folder with --ort-include"):
        fetch_onnxruntime(tmp_path / "into")


def test_the_archive_that_takes_too_long_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tools(tmp_path, monkeypatch, "exit 0")

    def slow(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(subprocess, "run", slow)
    with pytest.raises(PluginError, match="took more than"):
        fetch_onnxruntime(tmp_path / "into")
