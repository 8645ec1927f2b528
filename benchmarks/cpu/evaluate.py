"""Speed and results of our metrics against other implementations.

Repeats a small data set with new video ids until it is large. Reads and scores it with our metrics, with TrackEval's
TrackMAP and, if a checkout of youtubevos/cocoapi is given, with the official evaluator. The runs are interleaved; the
reported times are minima.

    python -m benchmarks.cpu.evaluate [--times 100] [--repeats 1] [--official DIR] [--json OUT]

Exits with 1 if another implementation is faster, or if an AP differs by more than 1e-9. Requires the extra `evaluate`.
"""

import argparse
import contextlib
import importlib
import io
import json
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine_facts, write_json
from idol_deploy.data.ytvis import read_dataset
from idol_deploy.evaluate.average_precision import RANGES, score
from idol_deploy.evaluate.predictions import read_predictions
from idol_deploy.evaluate.tracking import load_trackeval

SMALL = Path(__file__).parents[2] / "tests" / "data" / "ytvis_eval"


@dataclass
class Timed:
    """Minimum times of one evaluator and its AP."""

    reading_s: float = float("inf")
    scoring_s: float = float("inf")
    ap: float = -1.0

    def add(
        self, evaluator: Callable[[Path, Path], tuple[float, float, float]], gt: Path, pred: Path
    ) -> None:
        """Run the evaluator once."""
        reading, scoring, self.ap = evaluator(gt, pred)
        self.reading_s, self.scoring_s = min(self.reading_s, reading), min(self.scoring_s, scoring)

    @property
    def total_s(self) -> float:
        """Seconds for reading and scoring."""
        return self.reading_s + self.scoring_s


def repeated(times: int, folder: Path) -> tuple[Path, Path]:
    """Write the repeated data set, and return the paths of its annotations and results."""
    gt, pred = (json.loads((SMALL / name).read_text()) for name in ("gt.json", "pred.json"))
    videos, annotations, results = [], [], []
    for i in range(times):
        videos += [entry | {"id": entry["id"] + 100 * i} for entry in gt["videos"]]
        for entry in gt["annotations"]:
            annotations.append(entry | {"id": len(annotations) + 1, "video_id": entry["video_id"] + 100 * i})
        results += [entry | {"video_id": entry["video_id"] + 100 * i} for entry in pred]
    paths = folder / "gt.json", folder / "pred.json"
    paths[0].write_text(json.dumps(gt | {"videos": videos, "annotations": annotations}))
    paths[1].write_text(json.dumps(results))
    return paths


def ours(gt: Path, pred: Path) -> tuple[float, float, float]:
    """Return seconds to read, seconds to score, and AP."""
    begin = time.perf_counter()
    dataset = read_dataset(gt)
    predictions = read_predictions(pred, dataset)
    read = time.perf_counter()
    ap = score(dataset, predictions).summary["AP"]
    return read - begin, time.perf_counter() - read, ap


def trackmap(gt: Path, pred: Path) -> tuple[float, float, float]:
    """Return the same for TrackEval. Its own reader takes folders only, so our reader is used."""
    package = load_trackeval()
    areas = [list(limits.area) for limits in RANGES["ytvis"][1:]]
    config = {"USE_TIME_RANGES": False, "AREA_RANGES": areas, "MAX_DETECTIONS": 100, "PRINT_CONFIG": False}
    metric = package.metrics.TrackMAP(config)
    begin = time.perf_counter()
    dataset = read_dataset(gt)
    cells: dict[tuple[int, int], tuple[list[Any], list[Any]]] = {}
    for video in dataset.videos:
        for track in dataset.tracks(video.id):
            cells.setdefault((track.category_id, video.id), ([], []))[0].append(track)
    for result in read_predictions(pred, dataset):
        cells.setdefault((result.category_id, result.video_id), ([], []))[1].append(result)
    read = time.perf_counter()
    by_class: dict[int, dict[int, Any]] = {}
    for (category, video_id), (truth, results) in cells.items():
        best = [results[i] for i in np.argsort([-result.score for result in results], kind="stable")]
        data = {
            "gt_track_ids": [track.id for track in truth],
            "gt_tracks": [_frames(track.masks) for track in truth],
            "gt_track_areas": [track.area for track in truth],
            "gt_track_iscrowd": [track.crowd for track in truth],
            "dt_track_ids": list(range(1, len(best) + 1)),
            "dt_tracks": [_frames(result.masks) for result in best],
            "dt_track_areas": [result.area for result in best],
            "dt_track_scores": np.array([result.score for result in best]),
            "iou_type": "mask",
        }
        by_class.setdefault(category, {})[video_id] = metric.eval_sequence(data)
    combined = {category: metric.combine_sequences(parts) for category, parts in by_class.items()}
    ap = float(np.mean(metric.combine_classes_class_averaged(combined)["AP_all"]))
    return read - begin, time.perf_counter() - read, ap


def _frames(masks: Any) -> dict[int, Any]:
    return {frame: masks.rle(frame) for frame in range(len(masks.counts))}


def official(folder: Path) -> Callable[[Path, Path], tuple[float, float, float]]:
    """Return the official evaluator of a checkout, with the masks of the installed pycocotools."""
    package = types.ModuleType("official")
    package.__path__ = [str(folder)]
    sys.modules["official"] = package
    sys.modules["official.mask"] = importlib.import_module("pycocotools.mask")
    vars(package)["mask"] = sys.modules["official.mask"]
    with _old_numpy():
        annotations = importlib.import_module("official.ytvos")
        evaluator = importlib.import_module("official.ytvoseval")

    def run(gt: Path, pred: Path) -> tuple[float, float, float]:
        with _old_numpy(), contextlib.redirect_stdout(io.StringIO()):
            begin = time.perf_counter()
            truth = annotations.YTVOS(str(gt))
            results = truth.loadRes(str(pred))
            read = time.perf_counter()
            scoring = evaluator.YTVOSeval(truth, results, "segm")
            scoring.evaluate()
            scoring.accumulate()
            scoring.summarize()
        return read - begin, time.perf_counter() - read, float(scoring.stats[0])

    return run


@contextlib.contextmanager
def _old_numpy() -> Iterator[None]:
    """Patch numpy for the checkout, which needs np.float and a float as linspace's count."""
    linspace = np.linspace
    vars(np)["float"] = float
    vars(np)["linspace"] = lambda start, stop, num, **options: linspace(start, stop, round(num), **options)
    try:
        yield
    finally:
        vars(np)["linspace"] = linspace
        del vars(np)["float"]


def main() -> int:
    """Measure, print and write the results, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--times", type=int, default=100, help="repetitions of the data set (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=1, help="timed runs (default: %(default)s)")
    parser.add_argument("--official", type=Path, metavar="DIR", help="folder of ytvos.py and ytvoseval.py")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    evaluators = {"ours": ours, "TrackEval TrackMAP": trackmap}
    if options.official:
        evaluators["official ytvoseval"] = official(options.official)
    timed = {name: Timed() for name in evaluators}
    with tempfile.TemporaryDirectory() as folder:
        gt, pred = repeated(options.times, Path(folder))
        megabytes = [path.stat().st_size / 1e6 for path in (gt, pred)]
        for _ in range(options.repeats):
            for name, evaluator in evaluators.items():
                timed[name].add(evaluator, gt, pred)
    mine = timed["ours"]
    print(
        f"{6 * options.times} videos, {174 * options.times} results, {megabytes[0]:.1f} + {megabytes[1]:.1f} MB"
    )
    print(f"{'':20} {'reading s':>10} {'scoring s':>10} {'/ ours':>8} {'total s':>9} {'/ ours':>8}  AP")
    for name, row in timed.items():
        ratios = row.scoring_s / mine.scoring_s, row.total_s / mine.total_s
        print(
            f"{name:20} {row.reading_s:10.2f} {row.scoring_s:10.2f} {ratios[0]:8.2f} {row.total_s:9.2f} "
            f"{ratios[1]:8.2f}  {row.ap:.12f}"
        )
    passed = all(row.total_s >= mine.total_s and abs(row.ap - mine.ap) <= 1e-9 for row in timed.values())
    result = {
        "machine": machine_facts(),
        "times": options.times,
        "evaluators": {name: vars(row) | {"total_s": row.total_s} for name, row in timed.items()},
        "passed": passed,
    }
    write_json(result, options.json)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
