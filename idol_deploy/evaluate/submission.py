"""The archive that the servers of YouTube-VIS and OVIS take."""

import shutil
import zipfile
from pathlib import Path

from idol_runtime.errors import DataError
from idol_runtime.files import replacing

__all__ = ["write_submission"]

_BEYOND_ZIP32 = 1 << 31


def write_submission(path: Path, results: Path) -> None:
    """Write an archive that holds the results as `results.json` and nothing else, whole or not at all.

    Raises:
        DataError: the results cannot be read.
        OutputError: the place cannot be written.
    """
    try:
        size = results.stat().st_size
        source = results.open("rb")
    except OSError as error:
        raise DataError(f"cannot read results file {results}: {error.strerror}; check the path") from error
    # A fixed date: the same results make the same archive.
    entry = zipfile.ZipInfo("results.json", (2020, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    with (
        source,
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open(entry, "w", force_zip64=size >= _BEYOND_ZIP32) as target,
    ):
        shutil.copyfileobj(source, target, 1 << 20)
