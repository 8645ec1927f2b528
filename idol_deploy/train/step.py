"""One training step: precision, accumulation, several processes, clipping and the update (docs/idol.md §5.5)."""

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
from idol_deploy.settings import TrainSettings
from idol_deploy.train.graph import TrainingGraph
from idol_deploy.train.optimiser import build_optimiser, set_rates
from idol_deploy.train.processes import Processes
from idol_runtime.errors import TrainingError

__all__ = ["StepReport", "Stepper"]

_TYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Steps in a row. Each halves the fp16 scale, so 16 of them lower it from 2**16 to 1.
_MAX_SKIPPED = 50


@dataclass(frozen=True)
class StepReport:
    """Results of a step, as means over processes and accumulated batches.

    Attributes:
        losses: losses by published name, before their weights.
        total: weighted sum of the losses.
        matched: number of matched queries in the last layer.
        items: number of instances whose embeddings were trained.
        grad_norm: gradient norm of the whole model before clipping; infinite in a step that fp16 skips.
        skipped: True if the gradient exceeded fp16's range: the weights are unchanged, and the scale is lowered.
        rate: learning rate of all parameters outside the backbone.
        seconds: seconds of this process by phase: `data`, `forward`, `backward`, `step`.
        stop: True if any process was asked to stop.
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
    """A trainer that updates a graph step by step.

    Attributes:
        optimiser: AdamW over the graph's parameters.
        scaler: scaler of fp16 gradients; inactive in other precisions.
    """

    def __init__(self, graph: TrainingGraph, settings: TrainSettings, processes: Processes) -> None:
        self._train = settings.network.train
        self._accumulate = settings.run.accumulate
        # For a single batch, the criterion itself divides by the counts of all processes.
        self._counts_first = self._accumulate > 1 and self._train.loss.global_normaliser
        self._type = _TYPES[settings.run.precision]
        self._processes = processes
        self._parameters = [parameter for parameter in graph.parameters() if parameter.requires_grad]
        self._local = graph
        self._graph: nn.Module = graph
        if processes.several:
            # Some parameters have no gradient: Swin's first norm, and inner heads without deep supervision.
            self._graph = DistributedDataParallel(graph, find_unused_parameters=True)
        self.optimiser = build_optimiser(graph, self._train)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self._type is torch.float16)
        self._skipped = 0

    def step(
        self, batches: Iterator[Batch], iteration: int, stop: Callable[[], bool] = lambda: False
    ) -> StepReport:
        """Run one step.

        Args:
            batches: source of the batches; the step takes `run.accumulate` of them.
            iteration: number of steps done before.
            stop: function that returns whether this process was asked to stop.

        Raises:
            TrainingError: a loss or gradient is not finite; the weights are unchanged.
        """
        rate = set_rates(self.optimiser, iteration, self._train)
        watch = _Watch(self._processes.device)
        self.optimiser.zero_grad(set_to_none=True)
        results: list[tuple[list[str], Tensor]] = []
        step_batches: Iterable[Batch] = (self._next(batches, watch) for _ in range(self._accumulate))
        if self._counts_first:
            step_batches = list(step_batches)
            self._share_counts(step_batches)
            watch.stop("forward")
        for number, batch in enumerate(step_batches, 1):
            results.append(self._differentiate(batch, watch, last=number == self._accumulate))
        names = results[0][0]
        values = torch.stack([values for _, values in results]).mean(0)
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

    def _share_counts(self, batches: Sequence[Batch]) -> None:
        """Set the normaliser to the counts of all these batches, found by a forward pass without gradients.

        This pass has the same dropout as the pass that follows.
        """
        device, criterion = self._processes.device, self._local.criterion
        criterion.normaliser = count_here
        counts = []
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad(), self._cast():
            for batch in batches:
                losses: Losses = self._local(batch)
                counts.append(torch.cat((losses.matched, losses.items[None])))
        divisors = count_everywhere(torch.stack(counts).sum(0).float()) / len(batches)
        criterion.normaliser = lambda _: divisors

    def _cast(self) -> torch.autocast:
        return torch.autocast(self._processes.device.type, self._type, enabled=self._type is not None)

    def _differentiate(self, batch: Batch, watch: "_Watch", *, last: bool) -> tuple[list[str], Tensor]:
        """Add a batch's share to the gradient; return the names of its losses and the values of the report."""
        sync = contextlib.nullcontext()
        if isinstance(self._graph, DistributedDataParallel) and not last:
            sync = self._graph.no_sync()  # type: ignore[assignment]
        with sync:
            with self._cast():
                losses: Losses = self._graph(batch)
            watch.stop("forward")
            self.scaler.scale(losses.total / self._accumulate).backward()  # type: ignore[no-untyped-call]
            watch.stop("backward")
        values = [*losses.parts.values(), losses.total, losses.matched[-1], losses.items]
        return list(losses.parts), torch.stack([value.detach().float() for value in values])

    def _update(self, iteration: int) -> float:
        """Clip and apply the gradient; return its norm, infinite if fp16 skips the step."""
        self.scaler.unscale_(self.optimiser)
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._train.clip_norm))
        if not self.scaler.is_enabled():
            self._refuse(iteration, {"the gradient's norm": norm})
        self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
        if self._skipped > _MAX_SKIPPED:
            self._refuse(iteration, {"the gradient's norm, whatever the scale,": norm})
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return norm if math.isfinite(norm) else math.inf

    @staticmethod
    def _refuse(iteration: int, values: dict[str, float]) -> None:
        """Raise an error for the first value that is not finite, before it reaches the weights."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"iteration {iteration + 1}: {name} is {value}; the last snapshot is unchanged: continue it with "
                    "--resume and a lower train.lr, or with run.precision=fp32"
                )


class _Watch:
    """A stopwatch of seconds by phase. It synchronises a device, so that queued work counts in its own phase."""

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
