"""The candidates of deform_attn_variants.cu: which answer rightly, and which is the fastest.

The kernel that ships runs beside them. What is wrong here fails nothing that ships, only this section.
"""

import os
from pathlib import Path

from gpu_attention import library_of
from gpu_checks import check_library
from gpu_common import Options, Report, Save, say
from gpu_kernels import Libraries, run_over

__all__ = ["run"]


def run(options: Options, report: Report, save: Save) -> None:
    """Checks of all, then times of those that pass."""
    found = sorted(Path(os.environ["IDOL_PLUGINS"]).glob("libcandidate_*.so"))
    report["checks"] = {}
    libraries: Libraries = {"kernel": None}
    for path in found if options.device == "cuda" else []:
        name = path.stem.removeprefix("libcandidate_")
        report["checks"][name] = check_library(library_of("cuda", path), options, classic=False)
        say(f"{name}: {len(report['checks'][name]['failed'])} failed of {report['checks'][name]['checks']}")
        save()
        if report["checks"][name]["passed"]:
            libraries[name] = path
    run_over(libraries, False, options, report, save)
    report["passed"] &= all(checks["passed"] for checks in report["checks"].values())
