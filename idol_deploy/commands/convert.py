"""`idol-deploy convert`: the weights of a checkpoint as safetensors."""

import argparse
from pathlib import Path

from idol_deploy.commands.common import add_checkpoint

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy convert`."""
    parser.description = "Write the weights of a checkpoint or a training snapshot as safetensors."
    add_checkpoint(parser)
    output = "write the weights to FILE: .safetensors"
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help=output)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from idol_deploy.settings import network_config
    from idol_runtime.files import refuse_replacing, require_suffix, writable_target
    from idol_runtime.optional import import_optional

    config = network_config(options.preset, options.classes)
    writable_target(options.output)
    refuse_replacing([options.output], [options.weights, options.preset, options.classes])
    require_suffix(options.output, "a file of weights", ".safetensors")
    import_optional("torch", "torch", "export", "reading a checkpoint")
    from idol_deploy.weights.checkpoint import load_checkpoint, save_checkpoint

    save_checkpoint(options.output, load_checkpoint(options.weights, config), config, store=options.store)
    print(f"wrote {options.output} ({options.output.stat().st_size / 2**20:.1f} MiB)")
    return 0
