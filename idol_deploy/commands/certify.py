"""`idol-deploy certify`: certificates of reduced-precision graphs for this machine."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, cast

from idol_deploy.commands.common import positive, print_checks
from idol_deploy.progress import steps

if TYPE_CHECKING:
    from idol_runtime.bundle.certificates import ReducedName

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy certify`."""
    parser.description = (
        "Measure the reduced-precision graphs of a bundle in the engines and on the processor of this machine, and add "
        "their certificates to the bundle. Needs no PyTorch. Exit status 1: a graph failed; it is recorded as failed, "
        "and run refuses it here."
    )
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="add the certificates to this .idol file")
    graph = "measure this graph in all engines that can run it; may be repeated (default: the graphs worth running)"
    add("--graph", action="append", default=[], metavar="GRAPH", help=graph)
    verify = "compare outputs and tracks on this video or these images (default: generated videos)"
    add("--verify", metavar="SOURCE", help=verify)
    add("--verify-frames", type=positive, default=4, metavar="N", help="compare outputs on N frames")
    annotations = "score the graphs, and compare tracks, on these annotations: YouTube-VIS or OVIS JSON"
    add("--annotations", type=Path, metavar="FILE", help=annotations)
    frames = "read the annotated frames below DIR; the annotations name them relative to it"
    add("--frames", type=Path, metavar="DIR", help=frames)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from idol_export.certify import CertifyOptions, certify
    from idol_runtime.bundle.certificates import current_name
    from idol_runtime.files import refuse_replacing
    from idol_runtime.sources.opening import source_paths

    frames = source_paths(options.verify) if options.verify else []
    refuse_replacing([options.bundle], [options.annotations, *frames])
    certify_options = CertifyOptions(
        graphs=tuple(cast("ReducedName", current_name(name)) for name in options.graph),
        verify_source=options.verify,
        verify_frames=options.verify_frames,
        annotations=options.annotations,
        annotation_frames=options.frames,
    )
    with steps(redraw=True) as announce:
        certified = certify(options.bundle, certify_options, announce)
    for name, certificates in certified.certificates.items():
        for certificate in certificates:
            print_checks(f"{name} in {certificate.measured_in}", certificate)
    for reason in certified.reasons:
        print(f"note: {reason}")
    print(f"wrote {options.bundle}")
    return 0 if certified.passed else 1
