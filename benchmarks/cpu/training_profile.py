"""Time of a training step on a CPU by phase, and time that it waits for data.

Runs steps of the training loop at a small size: network forward, assignment with sample selection and embedding losses,
other losses, backward, optimiser; with and without the attention's operator, on 1 and 2 threads, interleaved. Frames
show moving shapes. Predicted boxes are moved onto the instances, so that as many queries are matched as in a trained
network; an untrained one matches a tenth of that. Then measures the share of time that steps wait for data, and the
pairs per second of the loader at the small and the published size.

    idol-deploy plugins build
    python -m benchmarks.cpu.training_profile [--presets edge_ytvis19] [--threads 1,2] [--steps 5] [--json OUT]

Exits with 1 if two workers load fewer pairs than the fastest step uses, or if assignment takes a tenth of a step.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cpu.data_loading import speed, timed
from benchmarks.machine import machine_facts, write_json
from idol_deploy.config import preset
from idol_deploy.data.loader import LoaderState, PairLoader
from idol_deploy.data.samples import PairSource
from idol_deploy.evaluate.shards import Shard
from idol_deploy.model.pairs import PairOutput
from idol_deploy.objective import criterion as criterion_module
from idol_deploy.objective.batch import Batch, Targets
from idol_deploy.objective.criterion import Criterion
from idol_deploy.settings import DataConfig, RunConfig, TrainSettings
from idol_deploy.train.data import open_training_data
from idol_deploy.train.graph import build_graph, prepare_graph
from idol_deploy.train.processes import Processes
from idol_deploy.train.step import Stepper, StepReport
from tests.moving_shapes import SHAPES, MadeDataset, make_videos

SIZE = (160, 256)  # of the network's input
SOURCE = (360, 640)  # of the frames on disk
INSTANCES = 6
PER_INSTANCE = 10  # limit of simOTA
PAIRS = 2
WORKERS = (0, 1, 2)
MOST_ASSIGNMENT = 0.1
PHASES = ("network", "assignment", "losses", "backward", "optimiser")


@dataclass(frozen=True)
class Case:
    """Preset, use of the operator, and number of threads."""

    preset: str
    operator: str
    threads: int


class Trainer:
    """A network in training, with records of its steps."""

    def __init__(self, case: Case, dataset: MadeDataset) -> None:
        self.case = case
        settings = settings_of(case, dataset)
        self.source = open_training_data(settings).pairs
        self.preprocessing = settings.network.preprocessing
        graph = build_graph(settings, 0, None, lambda _: None)
        prepare_graph(graph, settings, lambda _: None)
        graph.criterion.forward = crowded(graph.criterion.forward)  # type: ignore[method-assign]
        self.stepper = Stepper(graph, settings, Processes(Shard(), torch.device("cpu")))
        self.batches = list(itertools.islice(self.loader(0), 2))
        self.iteration = 0
        self.phases: list[dict[str, float]] = []
        self.waited: list[float] = []
        self.matched: list[float] = []

    def loader(self, workers: int) -> Iterator[Batch]:
        """Return the batches of the training loop."""
        state = LoaderState(1)
        return iter(PairLoader(self.source, self.preprocessing, pairs=PAIRS, state=state, workers=workers))

    def step(self, batches: Iterator[Batch]) -> None:
        """Run one step and record its phases in seconds."""
        torch.set_num_threads(self.case.threads)
        times: dict[str, float] = {}
        with (
            timed(criterion_module, "_match_layers", times),
            timed(Criterion, "_embedding_sums", times),
            timed(self.stepper._local.criterion, "forward", times),
        ):
            report: StepReport = self.stepper.step(batches, self.iteration)
        self.iteration += 1
        assignment = times["_match_layers"] + times["_embedding_sums"]
        seconds = report.seconds
        self.matched.append(report.matched)
        self.waited.append(seconds["data"])
        self.phases.append(
            {
                "network": seconds["forward"] - times["forward"],
                "assignment": assignment,
                "losses": times["forward"] - assignment,
                "backward": seconds["backward"],
                "optimiser": seconds["step"],
            }
        )

    def report(self) -> dict[str, Any]:
        """Return the fastest step, which background load affected least."""
        phases = min(self.phases, key=lambda phases: sum(phases.values()))
        total = sum(phases.values())
        return {
            "preset": self.case.preset,
            "operator": self.case.operator == "always",
            "threads": self.case.threads,
            "images_per_second": round(2 * PAIRS / total, 2),
            "seconds": round(total, 3),
            "share": {name: round(seconds / total, 4) for name, seconds in phases.items()},
            "matched": float(np.median(self.matched)),
        }


def settings_of(case: Case, dataset: MadeDataset) -> TrainSettings:
    """Return the preset's settings with the classes of shapes and one small size."""
    network = preset(case.preset)
    sizes = {"min_sizes": (SIZE[0],), "max_size": SIZE[1], "crop_probability": 0.0}
    train = replace(network.train, **sizes, batch_pairs=PAIRS, warmup_factor=0.0)
    network = replace(network, classes=SHAPES, train=train)
    data = DataConfig(str(dataset.annotations), str(dataset.frames))
    return TrainSettings(network, data, RunConfig(operator=case.operator))  # type: ignore[arg-type]


def crowded(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a criterion that matches ten queries to every instance; gradients of the boxes stay."""

    def wrapped(model: Any, output: PairOutput, targets: Targets) -> Any:
        boxes = output.boxes + (moved(output.boxes, targets.boxes, targets.exists) - output.boxes).detach()
        reference = moved(output.reference_boxes, targets.reference_boxes, targets.on_reference)
        return forward(model, replace(output, boxes=boxes, reference_boxes=reference), targets)

    return wrapped


def moved(
    boxes: Tensor,  # [..., N, Q, 4]
    instances: Tensor,  # [N, G, 4]
    exists: Tensor,  # [N, G]
) -> Tensor:
    """Move the first queries onto the instances, each 1 % larger than the previous one."""
    n = min(PER_INSTANCE, boxes.shape[-2] // instances.shape[1])
    larger = torch.cat((torch.zeros(n, 2), 0.01 * torch.arange(n)[:, None].expand(n, 2)), -1)
    targets = (instances[:, :, None] * (1 + larger)).flatten(1, 2)
    there = exists.repeat_interleave(n, 1)[..., None]
    first = torch.where(there, targets, boxes[..., : targets.shape[1], :])
    return torch.cat((first, boxes[..., targets.shape[1] :, :]), -2)


def waiting(trainer: Trainer, steps: int) -> dict[str, float]:
    """Return the share of time that steps wait for data, by number of workers."""
    shares = {}
    for workers in WORKERS:
        batches = trainer.loader(workers)
        next(batches)
        before = len(trainer.phases)
        for _ in range(steps):
            trainer.step(batches)
        batches.close()  # type: ignore[attr-defined]
        waited = sum(trainer.waited[before:])
        shares[str(workers)] = round(
            waited / (waited + sum(sum(phases.values()) for phases in trainer.phases[before:])), 4
        )
    return shares


def loading(source: PairSource, config: Any, batches: int) -> dict[str, float]:
    """Return the loader's pairs per second, by number of workers."""
    torch.set_num_threads(1)
    return {str(workers): round(speed(source, config, workers, batches)[0] / 2, 1) for workers in WORKERS}  # type: ignore[arg-type]


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure all cases, interleaved, then the loader."""
    small_frames = make_videos(folder / "small", videos=4, frames=8, size=SOURCE, shapes=INSTANCES)
    full_frames = make_videos(folder / "full", videos=4, frames=8, size=(720, 1280), shapes=INSTANCES)
    trainers = [
        Trainer(Case(name, operator, threads), small_frames)
        for name in args.presets.split(",")
        for threads in map(int, args.threads.split(","))
        for operator in args.operators.split(",")
    ]
    for _ in range(args.steps + 1):
        for trainer in trainers:
            trainer.step(iter(trainer.batches[trainer.iteration % 2 :]))
    cases = [trainer.report() for trainer in trainers]
    fastest = trainers[int(np.argmax([case["images_per_second"] for case in cases]))]
    waits = waiting(fastest, args.steps)
    small, published = (
        (settings_of(fastest.case, small_frames), small_frames),
        (TrainSettings(replace(preset("ytvis19_r50"), classes=SHAPES)), full_frames),
    )
    rates = {}
    for name, (settings, data) in {"small": small, "published": published}.items():
        config = DataConfig(str(data.annotations), str(data.frames))
        source = open_training_data(replace(settings, data=config)).pairs
        rates[name] = loading(source, settings.network, args.batches)
    needed = max(case["images_per_second"] for case in cases) / 2
    worst = max(case["share"]["assignment"] for case in cases)
    return {
        "machine": machine_facts(),
        "torch": torch.__version__,
        "size": list(SIZE),
        "pairs": PAIRS,
        "instances": INSTANCES,
        "cases": cases,
        "fastest_waits_by_workers": waits,
        "loader_pairs_per_second": rates,
        "fastest_step_pairs_per_second": round(needed, 2),
        "passed": rates["small"]["2"] > needed and worst < MOST_ASSIGNMENT,
    }


def table(report: dict[str, Any]) -> str:
    """Return the cases as a Markdown table."""
    lines = [
        f"| network | operator | threads | images/s | {' | '.join(PHASES)} |",
        f"| --- | --- | --- | --- | {' | '.join('---' for _ in PHASES)} |",
    ]
    for case in report["cases"]:
        share = " | ".join(f"{case['share'][name]:.1%}" for name in PHASES)
        with_it = "yes" if case["operator"] else "no"
        row = f"| `{case['preset']}` | {with_it} | {case['threads']} | {case['images_per_second']:.2f} | {share} |"
        lines.append(row)
    return "\n".join(lines)


def main() -> int:
    """Measure, print and write the results, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--presets", default="ytvis19_r50,edge_ytvis19", help="networks (default: %(default)s)"
    )
    parser.add_argument("--threads", default="1,2", help="numbers of threads (default: %(default)s)")
    parser.add_argument(
        "--operators",
        default="never,always",
        help="never, always or both (default: both)",
    )
    parser.add_argument(
        "--steps", type=int, default=5, help="steps of each case after a first (default: %(default)s)"
    )
    parser.add_argument(
        "--batches", type=int, default=8, help="timed batches of the loader (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(args, Path(folder))
    print(table(report))
    print(json.dumps({key: value for key, value in report.items() if key != "cases"}, indent=2))
    write_json(report, args.json)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
