"""The search for libraries, and the user's cache."""

from pathlib import Path

import pytest

from idol_plugins.errors import PluginError
from idol_plugins.libraries import (
    FOLDER_VARIABLE,
    build_folder,
    find_library,
    library_folders,
    user_cache,
)
from idol_plugins.ort import ort_library


def test_the_variable_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "libsomething.so").touch()
    assert next(library_folders()) == tmp_path
    assert find_library("something") == tmp_path / "libsomething.so"


def test_the_cache_comes_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert list(library_folders())[-1] == build_folder() == tmp_path / "idol_deploy" / "plugins"


@pytest.mark.usefixtures("homeless")
def test_without_a_home_only_the_packages_own_folder_is_left() -> None:
    (folder,) = library_folders()
    assert folder.name == "lib"
    with pytest.raises(PluginError, match=f"is not in {folder}; build it with"):
        find_library("idol_nothing")
    with pytest.raises(PluginError, match="no home folder; set HOME or XDG_CACHE_HOME"):
        build_folder()


def test_a_missing_library_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"idol-deploy plugins build$"):
        find_library("idol_nothing", tmp_path)
    with pytest.raises(PluginError, match=r"idol-deploy plugins build --fetch-headers$"):
        ort_library(tmp_path)


def test_the_variable_names_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert user_cache() == tmp_path / ".cache" / "idol_deploy"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert user_cache() == tmp_path / "other" / "idol_deploy"


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="no home folder; set HOME or XDG_CACHE_HOME"):
        user_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "idol_deploy"


def test_a_relative_cache_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "downloads")
    assert user_cache() == tmp_path / ".cache" / "idol_deploy"


@pytest.mark.parametrize("open_to_others", ["", "..", "libidol_x.so"])
def test_a_cache_that_others_may_write_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, open_to_others: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    build_folder().mkdir(parents=True)
    library = build_folder() / "libidol_x.so"
    library.touch()
    assert find_library("idol_x") == library
    (build_folder() / open_to_others).chmod(0o777)
    with pytest.raises(PluginError, match=r"can be changed by other users.*delete it, and build again"):
        find_library("idol_x")
