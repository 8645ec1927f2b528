"""`idol-deploy synth`: videos of look-alikes that cross, hide and return, with exact masks."""

import argparse
from pathlib import Path
from typing import Any

from idol_deploy.commands.arguments import positive, size, whole

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.description = (
        "Draw a data set of synthetic videos in the format of OVIS: look-alikes that cross, occlude each other, vanish "
        "for some frames and return, with exact masks. The same arguments give the same bytes on any number of "
        "workers; nobody in a val set is ever in a train set. Needs no PyTorch."
    )
    parser.set_defaults(command=run)
    add = parser.add_argument
    add("-o", "--output", required=True, type=Path, metavar="DIR", help="folder to write, new or empty")
    add("--preset", default="standard", help="easy, standard, hard (default: standard)")
    add("--split", default="train", help="train or val: whose identities appear (default: train)")
    add("--videos", type=positive, default=100, metavar="N", help="how many (default: 100)")
    add("--frames", type=positive, metavar="T", help="of each video (default: the preset's, 24)")
    add("--size", type=size, metavar="HxW", help="of the frames (default: the preset's, 160x256)")
    add("--seed", type=whole, default=0, metavar="S", help="decides everything else (default: 0)")
    add("--workers", type=positive, default=1, metavar="W", help="processes that draw (default: 1)")
    add(
        "--cutouts",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="also these: CLASS/TRACK/*.webp, CLASS/*.webp or *.webp with alpha; may be repeated",
    )
    add("--only-cutouts", action="store_true", help="leave out the sprites and shapes of the package")
    add("--classes", default="", metavar="NAMES", help="only these, such as bird,face (default: all)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="vanish=10,14, camera_jumps=0, occluders=0,0, … (docs/synth.md)",
    )


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from dataclasses import replace

    from idol_deploy.synth.config import override_synth, synth_preset
    from idol_deploy.synth.dataset import write_dataset
    from idol_deploy.synth.identities import SPLITS, read_library
    from idol_runtime.errors import ConfigError

    if options.split not in SPLITS:
        raise ConfigError(f"there is no split {options.split!r}; take one of {', '.join(SPLITS)}")
    if options.only_cutouts and not options.cutouts:
        raise ConfigError("--only-cutouts leaves nothing to draw; give --cutouts DIR as well")
    config = synth_preset(options.preset)
    config = replace(config, frames=options.frames or config.frames, size=options.size or config.size)
    config = override_synth(config, options.set)
    classes = [name.strip() for name in options.classes.split(",") if name.strip()]
    library = read_library(options.cutouts, shipped=not options.only_cutouts, classes=classes)
    made = write_dataset(
        options.output,
        library,
        config,
        options.split,
        videos=options.videos,
        seed=options.seed,
        workers=options.workers,
        preset=options.preset,
    )
    _print_statistics(made.statistics)
    for path in (made.annotations, made.vanishing):
        if path is not None:
            print(f"wrote {path}")
    return 0


def _print_statistics(statistics: dict[str, Any]) -> None:
    print(
        f"{statistics['videos']} videos, {statistics['frames']} frames, {statistics['instances']} instances of "
        f"{statistics['identities']} identities, {statistics['look_alike_pairs']} pairs of look-alikes"
    )
    print(
        f"{statistics['masks']} masks, {statistics['hidden_at_all']:.0%} hidden in part, "
        f"{statistics['hidden_more_than_half']:.1%} more than half"
    )
    lengths = ", ".join(f"{n}x {frames}" for frames, n in statistics["vanishings"].items())
    print(f"vanished and returned after so many frames: {lengths or 'none'}")
    print(
        f"{statistics['vanishings_past_expiry']} of these after 10 or more; "
        f"3 to 9 in {statistics['videos_with_3_to_9']} videos"
    )
    print(f"{statistics['crossings']} crossings, {statistics['crossings_of_look_alikes']} of look-alikes")
