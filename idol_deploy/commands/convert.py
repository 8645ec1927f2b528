"""`idol-deploy convert`: the weights of a checkpoint alone, as safetensors."""

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.description = (
        "Write the weights of a checkpoint or a training snapshot as safetensors, for any --weights."
    )
    parser.set_defaults(command=run)
    add = parser.add_argument
    add(
        "--weights",
        required=True,
        type=Path,
        metavar="FILE",
        help="checkpoint, safetensors, or iteration-*.pt",
    )
    add("--preset", required=True, help="what the weights are: edge_synth, …, or a run's settings.json")
    add(
        "--store",
        choices=("fp32", "fp16"),
        default="fp32",
        help="fp16 rounds matrices and kernels, and halves the file (default: fp32)",
    )
    add("-o", "--output", required=True, type=Path, metavar="FILE", help="the .safetensors file to write")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from idol_deploy.settings import network_config
    from idol_runtime.files import refuse_replacing, writable_target
    from idol_runtime.optional import import_optional
    from idol_runtime.suffixes import require_suffix

    config = network_config(options.preset)
    writable_target(options.output)
    refuse_replacing([options.output], [options.weights, options.preset])
    require_suffix(options.output, "a file of weights", ".safetensors")
    import_optional("torch", "torch", "export", "reading a checkpoint")
    from idol_deploy.weights.checkpoint import load_checkpoint, save_checkpoint

    save_checkpoint(options.output, load_checkpoint(options.weights, config), config, store=options.store)
    print(f"wrote {options.output} ({options.output.stat().st_size / 2**20:.1f} MiB)")
    return 0
