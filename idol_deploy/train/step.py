"""One training step: batches in, weights changed; precision, accumulation, other processes, clipping.

Source: docs/idol.md §5.5.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from idol_deploy.objective.batch import Batch
from idol_deploy.objective.criterion import Losses, count_everywhere, count_here
from idol_deploy.objective.training_graph import TrainingGraph
from idol_deploy.settings import TrainSettings
from idol_deploy.train.optimiser import build_optimiser, set_rates
from idol_deploy.train.processes import Processes
from idol_runtime.errors import TrainingError

__all__ = ["StepReport", "Stepper"]

_TYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_MOST_SKIPPED = (
    50  # steps in a row; fp16's scale halves at each, and would have reached 1 from 2**16 long ago
)


@dataclass(frozen=True)
class StepReport:
    """What a step saw, the mean over processes and accumulated batches.

    Attributes:
        losses: by published name, without weights.
        total: their weighted sum.
        matched: matched queries of the last layer.
        items: instances whose embeddings were trained.
        grad_norm: of the whole model, before clipping; infinite in a step that fp16 skips.
        skipped: the gradient left fp16's range, so the weights stayed as they are and its scale was lowered.
        rate: learning rate of all but the backbone.
        seconds: of this process: `data`, `forward`, `backward`, `step`.
        stop: some process was asked to stop.
    """

    losses: dict[str, float]
    total: float
    matched: float
    items: float
    grad_norm: float
    skipped: bool
    rate: float
    seconds: dict[str, float]
    stop: bool


class Stepper:
    """Trains a graph step by step.

    Attributes:
        optimiser: AdamW.
        scaler: of fp16 gradients; does nothing in other precisions.
    """

    def __init__(self, graph: TrainingGraph, settings: TrainSettings, processes: Processes) -> None:
        self._train = settings.network.train
        self._accumulate = settings.run.accumulate
        # Of one batch, the criterion divides by what all processes found by itself.
        self._counts_ahead = self._accumulate > 1 and self._train.loss.global_normaliser
        self._type = _TYPES[settings.run.precision]
        self._processes = processes
        self._parameters = [parameter for parameter in graph.parameters() if parameter.requires_grad]
        self._alone = graph
        self._graph: nn.Module = graph
        if processes.several:
            # Swin's first output, and all but the last layer's heads without deep supervision, have no gradient.
            self._graph = DistributedDataParallel(graph, find_unused_parameters=True)
        self.optimiser = build_optimiser(graph, self._train)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self._type is torch.float16)
        self._skipped = 0

    def step(
        self, batches: Iterator[Batch], iteration: int, stop: Callable[[], bool] = lambda: False
    ) -> StepReport:
        """One step.

        Args:
            batches: as many are taken as are accumulated.
            iteration: how many steps were done before.
            stop: whether this process was asked to stop, which all are told.

        Raises:
            TrainingError: a loss or gradient is no number; the weights are those of before.
        """
        rate = set_rates(self.optimiser, iteration, self._train)
        watch = _Watch(self._processes.device)
        self.optimiser.zero_grad(set_to_none=True)
        seen: list[tuple[list[str], Tensor]] = []
        given: Iterable[Batch] = (self._next(batches, watch) for _ in range(self._accumulate))
        if self._counts_ahead:
            given = list(given)
            self._count_ahead(given)
            watch.stop("forward")
        for number, batch in enumerate(given, 1):
            seen.append(self._differentiate(batch, watch, last=number == self._accumulate))
        names = seen[0][0]
        values = torch.stack([values for _, values in seen]).mean(0)
        values = torch.cat((values, values.new_tensor([float(stop())])))
        *losses, total, matched, items, stopped = self._processes.mean(values).tolist()
        report = dict(zip(names, losses, strict=True))
        self._refuse(iteration, report | {"the total": total})
        norm = self._update(iteration)
        watch.stop("step")
        return StepReport(
            losses=report,
            total=total,
            matched=matched,
            items=items,
            grad_norm=norm,
            skipped=not math.isfinite(norm),
            rate=rate,
            seconds=watch.seconds,
            stop=stopped > 0,
        )

    def _next(self, batches: Iterator[Batch], watch: "_Watch") -> Batch:
        batch = next(batches).to(self._processes.device, non_blocking=True)
        watch.stop("data")
        return batch

    def _count_ahead(self, batches: Sequence[Batch]) -> None:
        """Lets the losses be divided by what all these batches match, which a pass without gradients finds.

        It drops the same units as the pass that follows.
        """
        device, criterion = self._processes.device, self._alone.criterion
        criterion.normaliser = count_here
        counts = []
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad(), self._cast():
            for batch in batches:
                losses: Losses = self._alone(batch)
                counts.append(torch.cat((losses.matched, losses.items[None])))
        divisors = count_everywhere(torch.stack(counts).sum(0).float()) / len(batches)
        criterion.normaliser = lambda _: divisors

    def _cast(self) -> torch.autocast:
        return torch.autocast(self._processes.device.type, self._type, enabled=self._type is not None)

    def _differentiate(self, batch: Batch, watch: "_Watch", *, last: bool) -> tuple[list[str], Tensor]:
        """Adds a batch's share to the gradient; the names of its losses, and what the report says of it."""
        alone = contextlib.nullcontext()
        if isinstance(self._graph, DistributedDataParallel) and not last:
            alone = self._graph.no_sync()  # type: ignore[assignment]
        with alone:
            with self._cast():
                losses: Losses = self._graph(batch)
            watch.stop("forward")
            self.scaler.scale(losses.total / self._accumulate).backward()  # type: ignore[no-untyped-call]
            watch.stop("backward")
        counts = (losses.matched[-1], losses.items)
        told = [*losses.parts.values(), losses.total, *counts]
        return list(losses.parts), torch.stack([value.detach().float() for value in told])

    def _update(self, iteration: int) -> float:
        """Clips and applies the gradient; its norm, infinite where fp16 skipped the step."""
        self.scaler.unscale_(self.optimiser)
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._train.clip_norm))
        if not self.scaler.is_enabled():
            self._refuse(iteration, {"the gradient's norm": norm})
        self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
        if self._skipped > _MOST_SKIPPED:
            self._refuse(iteration, {"the gradient's norm, whatever the scale,": norm})
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return norm if math.isfinite(norm) else math.inf

    @staticmethod
    def _refuse(iteration: int, values: dict[str, float]) -> None:
        """Ends the run at the first value that is no number, before it reaches the weights."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"iteration {iteration + 1}: {name} is {value}; the last snapshot is as it was: continue it with "
                    "--resume and a lower train.lr, or run.precision=fp32"
                )


class _Watch:
    """Seconds by phase. A device is waited for: its queue must not make the next phase look slow."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._since = time.perf_counter()
        self.seconds = dict.fromkeys(("data", "forward", "backward", "step"), 0.0)

    def stop(self, phase: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[phase] += now - self._since
        self._since = now
