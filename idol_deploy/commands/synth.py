"""`idol-deploy synth`: a data set of synthetic videos with exact masks."""

import argparse
from pathlib import Path
from typing import Any

from idol_deploy.commands.common import positive, size, whole

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy synth`."""
    parser.description = (
        "Draw a data set of synthetic videos in OVIS format: look-alikes that cross, occlude each other, vanish for "
        "some frames and return, with exact masks. The same arguments give the same bytes with any number of workers. "
        "No identity is in both a val set and a train set. Needs no PyTorch."
    )
    add = parser.add_argument
    output = "write the data set to DIR, a new or empty folder"
    add("-o", "--output", required=True, type=Path, metavar="DIR", help=output)
    add("--preset", default="standard", help="set the difficulty: easy, standard or hard")
    add("--split", default="train", help="draw the identities of this split: train or val")
    add("--videos", type=positive, default=100, metavar="N", help="draw N videos")
    add("--frames", type=positive, metavar="T", help="draw T frames per video (default: the preset's, 24)")
    add("--size", type=size, metavar="HxW", help="draw frames of this size (default: the preset's, 160x256)")
    add("--seed", type=whole, default=0, metavar="S", help="set the seed; another seed gives other videos")
    add("--workers", type=positive, default=1, metavar="N", help="draw in N processes")
    cutouts = (
        "add pictures with an alpha channel: CLASS/TRACK/*.webp, CLASS/*.webp or *.webp; may be repeated"
    )
    add("--cutouts", action="append", default=[], type=Path, metavar="DIR", help=cutouts)
    add("--only-cutouts", action="store_true", help="leave out the sprites and shapes of the package")
    add("--classes", default="", metavar="NAMES", help="draw only these classes: bird,face (default: all)")
    settings = "change a setting: vanish=10,14, camera_jumps=0, occluders=0,0, … (docs/synth.md)"
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=settings)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from dataclasses import replace

    from idol_deploy.synth.config import override_synth, synth_preset
    from idol_deploy.synth.dataset import write_dataset
    from idol_deploy.synth.identities import SPLITS, read_library
    from idol_runtime.errors import ConfigError

    if options.split not in SPLITS:
        raise ConfigError(f"unknown split {options.split!r}; take one of {', '.join(SPLITS)}")
    if options.only_cutouts and not options.cutouts:
        raise ConfigError("--only-cutouts leaves no identity to draw; give --cutouts DIR as well")
    config = synth_preset(options.preset)
    config = replace(config, frames=options.frames or config.frames, size=options.size or config.size)
    config = override_synth(config, options.set)
    classes = [name.strip() for name in options.classes.split(",") if name.strip()]
    library = read_library(options.cutouts, shipped=not options.only_cutouts, classes=classes)
    counts = {"videos": options.videos, "seed": options.seed, "workers": options.workers}
    dataset = write_dataset(options.output, library, config, options.split, **counts, preset=options.preset)
    _print_statistics(dataset.statistics)
    for path in (dataset.annotations, dataset.vanishing):
        if path is not None:
            print(f"wrote {path}")
    return 0


def _print_statistics(statistics: dict[str, Any]) -> None:
    lengths = ", ".join(f"{n} x {frames}" for frames, n in statistics["vanishings"].items())
    lines = (
        "{videos} videos, {frames} frames, {instances} instances of {identities} identities, "
        "{look_alike_pairs} pairs of look-alikes",
        "{masks} masks, {hidden_at_all:.0%} partly hidden, {hidden_more_than_half:.1%} more than half hidden",
        f"absences (count x frames): {lengths or 'none'}",
        "{vanishings_past_expiry} absences of 10 or more frames; of 3 to 9 frames in {videos_with_3_to_9} videos",
        "{crossings} crossings, {crossings_of_look_alikes} of look-alikes",
    )
    print("\n".join(lines).format_map(statistics))
