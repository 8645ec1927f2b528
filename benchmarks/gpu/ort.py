"""The demo bundle's graphs in ONNX Runtime on a CUDA device: golden check and latency.

Measures a frame from host memory to host memory, as `idol-deploy run` uses it: the graph with the compiled operator,
the portable graph, and reduced-precision graphs for this device. Skipped without an ONNX Runtime with CUDA;
`benchmarks.gpu.pack` packs one for a machine without network.

Fails if a graph that loads differs from PyTorch on the golden frame by more than its tolerance.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.gpu.common import Options, Report, Save, missing, say

__all__ = ["run"]

BUNDLE = Path(__file__).parents[2] / "models" / "edge_synth" / "edge_synth.idol"


def problem(device: str) -> str | None:
    """Explain why ONNX Runtime cannot run on a device; None if it can."""
    reason = missing("msgspec", "PIL", "onnxruntime")
    if reason is None and device == "cuda":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            reason = (
                f"ONNX Runtime {onnxruntime.__version__} has no CUDA; pack onnxruntime-gpu: "
                "python -m benchmarks.gpu.pack"
            )
    return reason


def run(options: Options, report: Report, save: Save) -> None:
    """Check and time every graph that this device can run."""
    reason = problem(options.device)
    if reason is not None:
        report.update(passed=True, skipped=reason)
        return
    import onnxruntime

    from idol_runtime.backends import Backend, OpenOptions, open_backend
    from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend
    from idol_runtime.bundle.bundle import Bundle
    from idol_runtime.errors import IdolError
    from idol_runtime.pipeline import compare_golden
    from idol_runtime.preprocess import resize
    from idol_runtime.timing import interleaved, summarise

    report["onnxruntime"], report["graphs"] = onnxruntime.__version__, {}
    backends: dict[str, Backend] = {}
    with Bundle.open(BUNDLE) as bundle:
        golden = bundle.golden_frame()
        image = resize(golden.frame, bundle.manifest.network_size)[None]
        usable = (*OnnxRuntimeBackend.fp32_graphs, *OnnxRuntimeBackend.timed[options.device])
        for graph in usable:
            if graph not in ("plugin", "portable", *bundle.manifest.precisions):
                continue
            result: Report = {"passed": False}
            try:
                backend = open_backend(bundle, OpenOptions("onnxruntime", options.device, None, graph))
                stages = compare_golden(backend, golden, bundle.tolerances(graph, "onnxruntime"))
            except IdolError as error:
                result["error"] = str(error)
            else:
                result["golden_error"] = {stage.stage: stage.error for stage in stages}
                result["passed"] = all(stage.passed for stage in stages)
                backends[graph] = backend
            report["graphs"][graph] = result
            save()
    runs: list[Callable[[], object]] = [partial(backend.infer, image) for backend in backends.values()]
    rounds, warmup = (2, 1) if options.quick else (4 * options.repeats, 5)
    times = interleaved(runs, rounds, warmup)
    for graph, column in zip(backends, times.T, strict=True):
        report["graphs"][graph]["ms"] = summarise(column)
        say(f"ONNX Runtime ({options.device}), {graph} graph: {report['graphs'][graph]['ms']['p50']:.2f} ms")
    for backend in backends.values():
        backend.close()
    report["passed"] = all(result["passed"] for result in report["graphs"].values())
