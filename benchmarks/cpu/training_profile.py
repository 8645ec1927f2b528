"""Where does the time of a training step go on a CPU, and does it ever wait for data?

Steps of a network at a small size, by the loop's own step: network forward, assignment with sample selection and
embedding losses, the other losses, backward, optimiser; with and without the attention's operator, in turns, on 1 and 2
threads. Frames are of moving shapes. Boxes are moved onto the instances, so that as many queries are matched as a
trained network has matched: an untrained one matches a tenth of that. Then the share of time that steps wait for data,
and the loader's pairs per second beside the steps', at that size and as published.

    idol-deploy plugins build
    python -m benchmarks.cpu.training_profile [--presets edge_ytvis19] [--threads 1,2] [--steps 5] [--json OUT]

Exits with 1 when two workers load less than the fastest step takes, or a tenth of a step is assignment.
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
from benchmarks.machine import machine_facts
from idol_deploy.config import preset
from idol_deploy.data.loader import LoaderState, PairLoader
from idol_deploy.data.samples import PairSource
from idol_deploy.data.synthetic import SHAPES, MadeDataset, make_videos
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
from idol_runtime.files import replacing

SIZE = (160, 256)  # of the frames that the network gets
SOURCE = (360, 640)  # of those on the disk
INSTANCES = 6
PER_INSTANCE = 10  # at most, by simOTA
PAIRS = 2
WORKERS = (0, 1, 2)
MOST_ASSIGNMENT = 0.1
PHASES = ("network", "assignment", "losses", "backward", "optimiser")


@dataclass(frozen=True)
class Case:
    """How a network learns."""

    preset: str
    operator: str
    threads: int


class Lesson:
    """A network that learns the same batches over and over."""

    def __init__(self, case: Case, made: MadeDataset) -> None:
        self.case = case
        settings = settings_of(case, made)
        self.source = open_training_data(settings).pairs
        self.preprocessing = settings.network.preprocessing
        graph = build_graph(settings, 0, None, lambda _: None)
        prepare_graph(graph, settings, lambda _: None)
        graph.criterion.forward = crowded(graph.criterion.forward)  # type: ignore[method-assign]
        self.stepper = Stepper(graph, settings, Processes(Shard(), torch.device("cpu")))
        self.batches = list(itertools.islice(self.loader(0), 2))
        self.iteration = 0
        self.seen: list[dict[str, float]] = []
        self.waited: list[float] = []
        self.matched: list[float] = []

    def loader(self, workers: int) -> Iterator[Batch]:
        """Batches as the loop gets them."""
        state = LoaderState(1)
        return iter(PairLoader(self.source, self.preprocessing, pairs=PAIRS, state=state, workers=workers))

    def learn(self, batches: Iterator[Batch]) -> None:
        """One step, by phases."""
        torch.set_num_threads(self.case.threads)
        taken: dict[str, float] = {}
        with (
            timed(criterion_module, "_match_layers", taken),
            timed(Criterion, "_embedding_sums", taken),
            timed(self.stepper._alone.criterion, "forward", taken),
        ):
            report: StepReport = self.stepper.step(batches, self.iteration)
        self.iteration += 1
        assignment = taken["_match_layers"] + taken["_embedding_sums"]
        seconds = report.seconds
        self.matched.append(report.matched)
        self.waited.append(seconds["data"])
        self.seen.append(
            {
                "network": seconds["forward"] - taken["forward"],
                "assignment": assignment,
                "losses": taken["forward"] - assignment,
                "backward": seconds["backward"],
                "optimiser": seconds["step"],
            }
        )

    def report(self) -> dict[str, Any]:
        """The fastest step, which other work on the machine disturbed least."""
        phases = min(self.seen, key=lambda phases: sum(phases.values()))
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


def settings_of(case: Case, made: MadeDataset) -> TrainSettings:
    """The preset's own, with classes of shapes and one small size."""
    network = preset(case.preset)
    sizes = {"min_sizes": (SIZE[0],), "max_size": SIZE[1], "crop_probability": 0.0}
    train = replace(network.train, **sizes, batch_pairs=PAIRS, warmup_factor=0.0)
    network = replace(network, classes=SHAPES, train=train)
    data = DataConfig(str(made.annotations), str(made.frames))
    return TrainSettings(network, data, RunConfig(operator=case.operator))  # type: ignore[arg-type]


def crowded(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A criterion that finds ten queries at every instance; the boxes' gradients stay."""

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
    """The first queries on the instances, each 1 % larger than the one before; the others where they were."""
    n = min(PER_INSTANCE, boxes.shape[-2] // instances.shape[1])
    larger = torch.cat((torch.zeros(n, 2), 0.01 * torch.arange(n)[:, None].expand(n, 2)), -1)
    wanted = (instances[:, :, None] * (1 + larger)).flatten(1, 2)
    there = exists.repeat_interleave(n, 1)[..., None]
    first = torch.where(there, wanted, boxes[..., : wanted.shape[1], :])
    return torch.cat((first, boxes[..., wanted.shape[1] :, :]), -2)


def waiting(lesson: Lesson, steps: int) -> dict[str, float]:
    """Share of the steps' time that the loop waits for data, by number of workers."""
    found = {}
    for workers in WORKERS:
        batches = lesson.loader(workers)
        next(batches)
        before = len(lesson.seen)
        for _ in range(steps):
            lesson.learn(batches)
        batches.close()  # type: ignore[attr-defined]
        waited = sum(lesson.waited[before:])
        found[str(workers)] = round(
            waited / (waited + sum(sum(phases.values()) for phases in lesson.seen[before:])), 4
        )
    return found


def loading(source: PairSource, config: Any, batches: int) -> dict[str, float]:
    """Pairs per second of the loader alone, by number of workers."""
    torch.set_num_threads(1)
    return {str(workers): round(speed(source, config, workers, batches)[0] / 2, 1) for workers in WORKERS}  # type: ignore[arg-type]


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All cases in turns, then the loader."""
    made = make_videos(folder / "small", videos=4, frames=8, size=SOURCE, shapes=INSTANCES)
    full = make_videos(folder / "full", videos=4, frames=8, size=(720, 1280), shapes=INSTANCES)
    lessons = [
        Lesson(Case(name, operator, threads), made)
        for name in args.presets.split(",")
        for threads in map(int, args.threads.split(","))
        for operator in args.operators.split(",")
    ]
    for _ in range(args.steps + 1):
        for lesson in lessons:
            lesson.learn(iter(lesson.batches[lesson.iteration % 2 :]))
    cases = [lesson.report() for lesson in lessons]
    fastest = lessons[int(np.argmax([case["images_per_second"] for case in cases]))]
    waits = waiting(fastest, args.steps)
    small, published = (
        (settings_of(fastest.case, made), made),
        (TrainSettings(replace(preset("ytvis19_r50"), classes=SHAPES)), full),
    )
    rates = {}
    for name, (settings, data) in {"small": small, "published": published}.items():
        where = DataConfig(str(data.annotations), str(data.frames))
        source = open_training_data(replace(settings, data=where)).pairs
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
    """The cases as Markdown."""
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
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--presets", default="ytvis19_r50,edge_ytvis19", help="networks")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--operators", default="never,always", help="whether the operator's library is used")
    parser.add_argument("--steps", type=int, default=5, help="of each case, after a first")
    parser.add_argument("--batches", type=int, default=8, help="of 4 pairs, to time the loader")
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(args, Path(folder))
    print(table(report))
    print(json.dumps({key: value for key, value in report.items() if key != "cases"}, indent=2))
    if args.json:
        with replacing(args.json) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
