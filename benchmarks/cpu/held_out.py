"""What is a model worth on videos of identities that it never saw, and what does its association add?

Draws held-out synthetic videos for each seed of their generator, runs the model once over each frame, and makes tracks
of what it finds in several ways: by embeddings with temporal weights (TWS), by embeddings without, by multi-cues, and
by the IoU of boxes alone, which may choose the best of three thresholds. Scores all videos, and apart those in which
an instance is away for 3 frames or more. Every number is a mean over the generator's seeds, with its standard
deviation; so is the difference between TWS and each other way, taken seed by seed.

    python -m benchmarks.cpu.held_out --bundle models/edge_synth/edge_synth.idol [--json FILE] [--markdown FILE]
    python -m benchmarks.cpu.held_out --weights model.safetensors --preset settings.json [--seeds 1 2 3] [--videos 60]
        [--difficulty standard] [--into FOLDER]

FOLDER keeps videos and results. Exits with 1 when TWS keeps fewer identities over absences than IoU does.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine_facts
from idol_deploy.data.ytvis import read_dataset
from idol_deploy.evaluate.association_scores import association_scores, find_tracks
from idol_deploy.evaluate.caching import CachingBackend
from idol_deploy.evaluate.model import ModelChoice, open_pipeline
from idol_deploy.studies.ablation.rows import WITHOUT_TWS
from idol_deploy.studies.ablation.table import head, line, moments
from idol_deploy.synth.config import preset
from idol_deploy.synth.dataset import SynthDataset, write_dataset
from idol_deploy.synth.identities import read_library
from idol_runtime.config import override
from idol_runtime.files import replacing

WAYS: Mapping[str, tuple[str, ...]] = {
    "embeddings + TWS": (),
    "embeddings, no TWS": WITHOUT_TWS,
    "multi-cues": (*WITHOUT_TWS, "association.matching=multi_cue"),
    "IoU > .1": ("association.matching=iou", "association.match_score=0.1"),
    "IoU > .3": ("association.matching=iou", "association.match_score=0.3"),
    "IoU > .5": ("association.matching=iou", "association.match_score=0.5"),
}
IOU = tuple(name for name in WAYS if name.startswith("IoU"))
OURS = next(iter(WAYS))
COLUMNS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP_occ_light": "AP light",
    "AP_occ_medium": "AP medium",
    "AP_occ_heavy": "AP heavy",
    "AssA": "AssA",
    "IDF1": "IDF1",
    "kept": "kept",
}
SETS = {"all": "all videos", "vanishing": "videos in which an instance is away for 3 to 9 frames"}

Scores = dict[str, dict[str, dict[str, float]]]  # by set, way and column


def draw(args: argparse.Namespace, seed: int) -> SynthDataset:
    """The videos of a seed; those of before if they are there."""
    folder = args.into / f"{args.difficulty}-{args.videos}-seed{seed}"
    if not folder.is_dir():
        config = preset(args.difficulty)
        write_dataset(
            folder, read_library(), config, "val", videos=args.videos, seed=seed, preset=args.difficulty
        )
    vanishing = folder / "vanishing.json"
    return SynthDataset(
        folder / "instances.json", vanishing if vanishing.is_file() else None, folder / "JPEGImages", {}
    )


def score_seed(args: argparse.Namespace, model: ModelChoice, seed: int) -> Scores:
    """All ways on the videos of one seed."""
    made = draw(args, seed)
    sets = {"all": read_dataset(made.annotations)}
    if made.vanishing is not None:
        sets["vanishing"] = read_dataset(made.vanishing)
    scores: Scores = {name: {} for name in sets}
    with open_pipeline(model) as pipeline:
        backend = CachingBackend(pipeline.backend)
        for way, settings in WAYS.items():
            found = find_tracks(
                backend,
                override(pipeline.config, settings),
                sets["all"],
                made.frames,
                args.into / f"seed{seed}-{list(WAYS).index(way)}",
                identity={"model": str(model.file), "way": way, "seed": seed, "videos": args.videos},
            )
            assert found is not None
            for name, dataset in sets.items():
                scores[name][way] = association_scores(dataset, found.of(dataset))
            told = (f"{title} {100 * scores['all'][way][name]:.1f}" for name, title in COLUMNS.items())
            print(f"seed {seed}, {way}: {', '.join(told)}", flush=True)
    return scores


def summarise(scores: Mapping[int, Scores]) -> dict[str, Any]:
    """By set: each way's moments, with the best IoU threshold by AP as `IoU, best`; and what TWS is ahead of it."""
    summary: dict[str, Any] = {}
    for name in next(iter(scores.values())):
        by_way = {way: [scores[seed][name][way] for seed in scores] for way in WAYS}
        best = max(IOU, key=lambda way: sum(entry["AP"] for entry in by_way[way]))
        kept = {way: found for way, found in by_way.items() if way not in IOU}
        kept[f"{best}, the best of three"] = by_way[best]
        ways = {way: moments(columns(found)) for way, found in kept.items()}
        ahead = {
            way: moments(
                columns([{c: a[c] - b[c] for c in COLUMNS} for a, b in zip(kept[OURS], found, strict=True)])
            )
            for way, found in kept.items()
            if way != OURS
        }
        summary[name] = {"ways": ways, "ahead": ahead}
    return summary


def columns(entries: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The seeds' scores by column."""
    return {name: [entry[name] for entry in entries] for name in COLUMNS}


def markdown(summary: Mapping[str, Any]) -> str:
    """Tables in percent."""
    lines = []
    for name, entry in summary.items():
        lines += [*head(SETS[name], COLUMNS)]
        lines += [line(way, found, COLUMNS) for way, found in entry["ways"].items()]
        lines += ["", *head("TWS is ahead of", COLUMNS)]
        lines += [line(way, found, COLUMNS, sign="+") for way, found in entry["ahead"].items()]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Returns 1 when embeddings keep fewer identities than boxes."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--preset", help="of --weights: a name, or a run's settings.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the generator")
    parser.add_argument("--videos", type=int, default=60, help="for each seed")
    parser.add_argument("--difficulty", default="standard", help="easy, standard, hard")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--into", type=Path, help="keep videos and results here")
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
    facts = {
        "machine": machine_facts(),
        "model": model.file.name,
        "difficulty": dataclasses.asdict(preset(args.difficulty)),
        "videos": args.videos,
        "seeds": list(scores),
    }
    told = {**facts, "summary": summary, "scores": scores}
    for path, text in ((args.json, json.dumps(told, indent=1) + "\n"), (args.markdown, table)):
        if path is not None:
            with replacing(path) as part:
                part.write_text(text, encoding="utf-8")
    ahead = [
        found["mean"]["kept"]
        for entry in summary.values()
        for way, found in entry["ahead"].items()
        if way.startswith("IoU")
    ]
    return 0 if all(value >= 0 for value in ahead) else 1


if __name__ == "__main__":
    sys.exit(main())
