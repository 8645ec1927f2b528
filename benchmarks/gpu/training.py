"""Training steps of the published schedule on a CUDA device: speed, memory and losses.

Trains `ovis_r50` from random weights with the training step of `idol-deploy train`: two pairs per step, short sides of
480 to 800 pixels, random frames and instances made during the run. Runs in fp32 (TF32 off) and under bf16 autocast,
with the compiled operator and with plain PyTorch; every run has the same frames. The time left is shared among the
runs, and each ends after 50 steps or its share. Runs without time are listed under `cut`.

First, the losses of three steps at small sizes in fp32 are compared with the CPU's.

Fails if these losses differ, or if a run raises an error, as it does for a loss that is not finite.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.gpu.common import Options, Report, Save, missing, percentiles, say
from benchmarks.gpu.network import KINDS, network_config
from idol_deploy.model.deform_op import operator_problem
from idol_deploy.objective.batch import Batch, Pair, collate
from idol_deploy.objective.id_head import UNKNOWN

if TYPE_CHECKING:
    from idol_deploy.settings import TrainSettings
    from idol_deploy.train.step import Stepper

__all__ = ["batches", "random_pair", "run"]

PAIRS, STEPS = 2, 50
NEEDED_S = 10.0  # seconds that must be left for a run
SMALL = (96, 112, 128)  # short sides of the comparison with the CPU
# (precision, operator), the most valuable run first.
RUNS = (("bf16", "always"), ("fp32", "always"), ("bf16", "never"), ("fp32", "never"))
# Relative error of the total loss per step: after the first, each step adds the rounding errors of an update by AdamW,
# which divides a gradient by its own size.
TOLERANCES = (1e-3, 1e-2, 3e-2)


def random_pair(size: tuple[int, int], classes: int, random: torch.Generator) -> Pair:
    """Return a pair of noisy frames of (h, w) pixels on which one to six coloured rectangles move.

    Args:
        size: (h, w) in pixels.
        classes: number of classes.
        random: source of all values.
    """
    height, width = size
    count = int(torch.randint(1, 7, (), generator=random))
    sides = 0.1 + 0.3 * torch.rand(count, 2, generator=random)
    corners = torch.rand(count, 2, generator=random) * (1 - sides)
    moved = (corners + 0.05 * torch.randn(count, 2, generator=random)).clamp(min=0).minimum(1 - sides)
    colours = torch.randint(0, 256, (count, 3, 1, 1), generator=random, dtype=torch.uint8)
    pixels = torch.tensor([width, height])
    frames, boxes, masks = [], [], []
    for corner in (corners, moved):
        box = (torch.cat((corner, corner + sides), 1) * pixels.repeat(2)).long()
        frame = torch.randint(0, 256, (3, height, width), generator=random, dtype=torch.uint8)
        mask = torch.zeros(count, height, width, dtype=torch.bool)
        for number, (left, top, right, bottom) in enumerate(box.tolist()):
            frame[:, top:bottom, left:right] = colours[number]
            mask[:number, top:bottom, left:right] = False  # later rectangles are nearer
            mask[number, top:bottom, left:right] = True
        frames.append(frame)
        boxes.append(box.float())
        masks.append(mask)
    present = torch.ones(count, dtype=torch.bool)
    return Pair(
        key=frames[0],
        reference=frames[1],
        labels=torch.randint(0, classes, (count,), generator=random),
        key_boxes=boxes[0],
        reference_boxes=boxes[1],
        masks=masks[0],
        on_key=present,
        on_reference=present,
        identities=torch.full((count,), UNKNOWN),
        reference_masks=masks[1],
    )


def batches(settings: "TrainSettings", short_sides: tuple[int, ...]) -> Iterator[Batch]:
    """Yield batches of random pairs of 16:9 frames with these short sides, always in the same order."""
    network, random = settings.network, torch.Generator().manual_seed(0)
    while True:
        pairs = []
        for _ in range(PAIRS):
            short = short_sides[int(torch.randint(len(short_sides), (), generator=random))]
            size = replace(network.preprocessing, short_side=short, max_side=network.train.max_size)
            pairs.append(random_pair(size.network_size(9 * short, 16 * short), len(network.classes), random))
        yield collate(pairs, network.preprocessing, both_directions=network.train.both_directions)


def first_negatives(negative: Tensor, count: Tensor) -> Tensor:
    """Select the first negatives: the same on every device, unlike `contrast.sample_uniformly`."""
    return (negative.cumsum(-1) <= count[..., None]) & negative


def make_stepper(settings: "TrainSettings", device: str, *, same_everywhere: bool = False) -> "Stepper":
    """Build the network and its trainer on a device.

    Args:
        settings: settings of the run.
        device: `cpu` or `cuda`.
        same_everywhere: sample negatives without a generator, whose numbers depend on the device.
    """
    from idol_deploy.evaluate.shards import Shard
    from idol_deploy.train.graph import build_graph, prepare_graph
    from idol_deploy.train.processes import Processes
    from idol_deploy.train.step import Stepper

    graph = build_graph(settings, 0, None, lambda _: None)
    graph.to(device)
    if same_everywhere:
        graph.criterion.sampler = first_negatives
    prepare_graph(graph, settings, lambda _: None)
    torch.manual_seed(0)
    return Stepper(graph, settings, Processes(Shard(), torch.device(device)))


def check_losses(settings: "TrainSettings", operator: str, options: Options) -> Report:
    """Compare the losses of the first steps at small sizes with the CPU's, both in fp32 without dropout."""
    model = replace(settings.network.model, dropout=0.0)
    settings = replace(settings, network=replace(settings.network, model=model))
    totals = {}
    for name, device, core in (("cpu", "cpu", "never"), ("device", options.device, operator)):
        own = replace(settings, run=replace(settings.run, operator=core))
        stepper, source = make_stepper(own, device, same_everywhere=True), batches(own, SMALL)
        totals[name] = [stepper.step(source, i).total for i in range(len(TOLERANCES))]
    errors = [abs(a / b - 1) for a, b in zip(totals["device"], totals["cpu"], strict=True)]
    passed = all(error <= allowed for error, allowed in zip(errors, TOLERANCES, strict=True))
    return {**totals, "relative_error": errors, "tolerances": TOLERANCES, "passed": passed}


def train(
    settings: "TrainSettings", short_sides: tuple[int, ...], seconds: float, options: Options
) -> Report:
    """Train for 50 steps or this long; report speed, memory and losses."""
    cuda = options.device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    stepper, source = make_stepper(settings, options.device), batches(settings, short_sides)
    steps: list[Any] = []
    end = time.monotonic() + seconds
    count, warm_up = (2, 1) if options.quick else (STEPS, 3)
    while len(steps) < count and (len(steps) <= warm_up or time.monotonic() < end):
        steps.append(stepper.step(source, len(steps)))
    parts = ("forward", "backward", "step")
    times = [1e3 * sum(step.seconds[part] for part in parts) for step in steps[warm_up:]]
    means = {
        part: sum(step.seconds[part] for step in steps[warm_up:]) / len(times) for part in ("data", *parts)
    }
    return {
        "steps": len(steps),
        "ms": percentiles(times),
        "steps_per_s": round(1e3 * len(times) / sum(times), 3),
        "mean_ms": {part: round(1e3 * mean, 2) for part, mean in means.items()},
        "peak_mib": round(torch.cuda.max_memory_allocated() / 2**20, 1) if cuda else None,
        "losses": [round(step.total, 4) for step in steps],
        "passed": True,
    }


def run(options: Options, report: Report, save: Save) -> None:
    """Check the first losses, then train in every precision with and without the operator."""
    reason = missing("msgspec", "safetensors", "PIL")
    if reason is not None:
        report.update(passed=True, skipped=reason)
        return
    from idol_deploy.settings import RunConfig, TrainSettings

    network = network_config(options, "ovis_r50")
    network = replace(network, train=replace(network.train, batch_pairs=PAIRS))
    settings = TrainSettings(network, run=RunConfig(precision="fp32"))
    short_sides = SMALL[:1] if options.quick else network.train.min_sizes
    problem = operator_problem(options.device)
    runs = [run for run in RUNS if problem is None or run[1] == "never"]
    report["operator"] = problem or "built"
    report["short_sides"] = list(short_sides)
    with KINDS["fp32"].active():
        report["first_losses"] = check_losses(settings, "never" if problem else "always", options)
        save()
        report["runs"], report["cut"] = {}, []
        for number, (precision, operator) in enumerate(runs):
            name = f"{precision}, {'operator' if operator == 'always' else 'plain PyTorch'}"
            own = replace(settings, run=replace(settings.run, precision=precision, operator=operator))
            if options.left_s < NEEDED_S:
                report["cut"].append(name)
                continue
            seconds = options.left_s / (len(runs) - number)
            try:
                result = train(own, short_sides, seconds, options)
            except Exception as error:  # noqa: BLE001 - a run that fails is a result and does not end the section
                result = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
            report["runs"][name] = result
            say(f"training in {name}: {result.get('steps_per_s', result.get('error'))} steps/s")
            save()
    report["passed"] = all(part["passed"] for part in (report["first_losses"], *report["runs"].values()))
