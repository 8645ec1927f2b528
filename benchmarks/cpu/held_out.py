"""Accuracy of a model on held-out videos, with several association methods.

Generates held-out synthetic videos for each seed and runs the model once on each frame. Associates its detections by
embeddings with temporal weights (TWS), by embeddings without, by multi-cues, and by the IoU of boxes alone, for which
the best of three thresholds counts. Scores all videos, and separately those in which an instance is absent for 3 frames
or more. Each number is the mean and standard deviation over the seeds. The differences between TWS and the other
methods are computed per seed.

    python -m benchmarks.cpu.held_out --bundle models/edge_synth/edge_synth.idol [--json FILE] [--markdown FILE]
    python -m benchmarks.cpu.held_out --weights model.safetensors --preset settings.json [--seeds 1 2 3] [--videos 60]
        [--difficulty standard] [--into FOLDER]

FOLDER stores videos and results. Exits with 1 if TWS re-identifies fewer instances after absence than IoU.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine_facts, write_json
from idol_deploy.data.ytvis import VisDataset, read_dataset
from idol_deploy.evaluate.association_scores import TrackResults, association_scores, find_tracks
from idol_deploy.evaluate.caching import CachingBackend
from idol_deploy.evaluate.model import ModelChoice, open_pipeline
from idol_deploy.studies.ablation.rows import WITHOUT_TWS
from idol_deploy.studies.ablation.table import head, line, moments
from idol_deploy.synth.config import synth_preset
from idol_deploy.synth.dataset import SynthDataset, write_dataset
from idol_deploy.synth.identities import read_library
from idol_runtime.config import override_stream
from idol_runtime.files import replacing

METHODS: Mapping[str, tuple[str, ...]] = {
    "embeddings + TWS": (),
    "embeddings, no TWS": WITHOUT_TWS,
    "multi-cues": (*WITHOUT_TWS, "association.matching=multi_cue"),
    "IoU > .1": ("association.matching=iou", "association.match_score=0.1"),
    "IoU > .3": ("association.matching=iou", "association.match_score=0.3"),
    "IoU > .5": ("association.matching=iou", "association.match_score=0.5"),
}
IOU = tuple(name for name in METHODS if name.startswith("IoU"))
OURS = next(iter(METHODS))
COLUMNS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP_occ_light": "AP light",
    "AP_occ_medium": "AP medium",
    "AP_occ_heavy": "AP heavy",
    "AssA": "AssA",
    "IDF1": "IDF1",
    "kept": "re-id",
}
SETS = {"all": "all videos", "vanishing": "videos in which an instance is absent for 3 to 9 frames"}

Scores = dict[str, dict[str, dict[str, float]]]  # by set, method and column


def draw(args: argparse.Namespace, seed: int) -> SynthDataset:
    """Return the videos of a seed; generate them unless their folder exists."""
    folder = args.into / f"{args.difficulty}-{args.videos}-seed{seed}"
    if not folder.is_dir():
        config = synth_preset(args.difficulty)
        write_dataset(
            folder, read_library(), config, "val", videos=args.videos, seed=seed, preset=args.difficulty
        )
    vanishing = folder / "vanishing.json"
    return SynthDataset(
        folder / "instances.json", vanishing if vanishing.is_file() else None, folder / "JPEGImages", {}
    )


def score_seed(args: argparse.Namespace, model: ModelChoice, seed: int) -> Scores:
    """Score all methods on the videos of one seed."""
    videos = draw(args, seed)
    sets = {"all": read_dataset(videos.annotations)}
    if videos.vanishing is not None:
        sets["vanishing"] = read_dataset(videos.vanishing)
    scores: Scores = {name: {} for name in sets}
    with open_pipeline(model) as pipeline:
        backend = CachingBackend(pipeline.backend)
        for method, settings in METHODS.items():
            tracks = find_tracks(
                backend,
                override_stream(pipeline.config, settings),
                sets["all"],
                videos.frames,
                args.into / f"seed{seed}-{list(METHODS).index(method)}",
                identity={"model": str(model.file), "way": method, "seed": seed, "videos": args.videos},
            )
            assert tracks is not None
            for name, dataset in sets.items():
                scores[name][method] = association_scores(dataset, subset(tracks, dataset))
            cells = (f"{title} {100 * scores['all'][method][name]:.1f}" for name, title in COLUMNS.items())
            print(f"seed {seed}, {method}: {', '.join(cells)}", flush=True)
    return scores


def subset(results: TrackResults, dataset: VisDataset) -> TrackResults:
    """Return the results of the videos of a data set."""
    ranked, tracked = (
        [entry for entry in entries if dataset.video(entry.video_id)]
        for entries in (results.ranked, results.tracked)
    )
    return TrackResults(ranked, tracked)


def summarise(scores: Mapping[int, Scores]) -> dict[str, Any]:
    """Return by set the mean and deviation of each method and of TWS minus it; of IoU only the best threshold."""
    summary: dict[str, Any] = {}
    for name in next(iter(scores.values())):
        by_method = {method: [scores[seed][name][method] for seed in scores] for method in METHODS}
        best = max(IOU, key=lambda method: sum(entry["AP"] for entry in by_method[method]))
        rows = {method: entries for method, entries in by_method.items() if method not in IOU}
        rows[f"{best}, the best of three"] = by_method[best]
        ahead = {}
        for method, entries in rows.items():
            if method != OURS:
                pairs = zip(rows[OURS], entries, strict=True)
                ahead[method] = moments(columns([{c: a[c] - b[c] for c in COLUMNS} for a, b in pairs]))
        ways = {method: moments(columns(entries)) for method, entries in rows.items()}
        summary[name] = {"ways": ways, "ahead": ahead}
    return summary


def columns(entries: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the seeds' scores by column."""
    return {name: [entry[name] for entry in entries] for name in COLUMNS}


def markdown(summary: Mapping[str, Any]) -> str:
    """Return Markdown tables in percent."""
    lines = []
    for name, entry in summary.items():
        lines += [*head(SETS[name], COLUMNS)]
        lines += [line(method, row, COLUMNS) for method, row in entry["ways"].items()]
        lines += ["", *head("TWS minus", COLUMNS)]
        lines += [line(method, row, COLUMNS, sign="+") for method, row in entry["ahead"].items()]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Measure, print and write the results, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--preset", help="preset of --weights: a name or a run's settings.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds (default: 1 2 3)")
    parser.add_argument("--videos", type=int, default=60, help="videos per seed (default: %(default)s)")
    parser.add_argument(
        "--difficulty", default="standard", help="easy, standard or hard (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="store videos and results here")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    model = ModelChoice(bundle=args.bundle, weights=args.weights, preset=args.preset, threads=args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        args.into = args.into or Path(temporary)
        args.into.mkdir(parents=True, exist_ok=True)
        scores = {seed: score_seed(args, model, seed) for seed in dict.fromkeys(args.seeds)}
    summary = summarise(scores)
    table = markdown(summary)
    print("\n" + table)
    result = {
        "machine": machine_facts(),
        "model": model.file.name,
        "difficulty": dataclasses.asdict(synth_preset(args.difficulty)),
        "videos": args.videos,
        "seeds": list(scores),
        "summary": summary,
        "scores": scores,
    }
    write_json(result, args.json)
    if args.markdown is not None:
        with replacing(args.markdown) as temporary:
            temporary.write_text(table, encoding="utf-8")
    differences = [
        difference["mean"]["kept"]
        for entry in summary.values()
        for method, difference in entry["ahead"].items()
        if method.startswith("IoU")
    ]
    return 0 if all(value >= 0 for value in differences) else 1


if __name__ == "__main__":
    sys.exit(main())
