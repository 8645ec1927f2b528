"""Demonstration of the bundled model on a held-out video whose objects cross, hide, vanish and return.

    make demo            (or: python examples/demo.py [FOLDER])

Requires `pip install 'idol-deploy[cpu,video]'` but not PyTorch. Prints its commands, which work on your own files.
"""

import shlex
import sys
from pathlib import Path

from idol_deploy.cli import main as idol_deploy
from idol_deploy.data.ytvis import read_dataset
from idol_deploy.evaluate.reappearance import follow_absences
from idol_deploy.evaluate.track_iou import UNASSIGNED, assign_tracks
from idol_deploy.studies.figure.tracks import read_tracks

MODEL = Path(__file__).parents[1] / "models/edge_synth/edge_synth.idol"
SEED = 7


def run(*arguments: str) -> None:
    """Print and run one `idol-deploy` command; exit if it fails."""
    print(f"\n$ idol-deploy {shlex.join(arguments)}", flush=True)
    status = idol_deploy(arguments)
    if status:
        sys.exit(status)


def describe_absences(annotations: Path, results: Path) -> list[str]:
    """Describe each absence of an instance and its track ids before and after."""
    dataset, tracked = read_dataset(annotations), read_tracks(results)
    (video,) = dataset.videos
    names = {category.dataset_id: category.name for category in dataset.categories}
    truth = dataset.tracks(video.id)
    shown = assign_tracks([track.masks for track in tracked.tracks], [track.masks for track in truth])
    lines = []
    for instance, row in zip(truth, shown, strict=True):
        for absence in follow_absences(instance.masks.areas > 0, row):
            before, after = (
                "unseen" if number == UNASSIGNED else f"#{tracked.tracks[number].id}"
                for number in (absence.before, absence.after)
            )
            name = names[instance.category_id]
            lines.append(
                f"{name}, absent in frames {absence.first} to {absence.last}: before {before}, after {after}"
            )
    return lines


def demo(folder: Path) -> None:
    """Write all files of the demonstration into a folder."""
    clip = folder / "clip"
    if not clip.is_dir():
        size = ("--size", "480x768", "--frames", "40")
        run("synth", "--split", "val", "--videos", "1", "--seed", str(SEED), *size, "-o", str(clip))
    outputs = {name: str(folder / name) for name in ("annotated.mp4", "frames.jsonl", "results.json")}
    run(
        *("run", str(MODEL), "--source", str(clip / "JPEGImages/00001"), "--save", outputs["annotated.mp4"]),
        *("--score", "0.3", "--jsonl", outputs["frames.jsonl"], "--results", outputs["results.json"]),
    )
    print("\nAbsences in the annotations, with the model's track ids before and after:")
    print("\n".join(describe_absences(clip / "instances.json", folder / "frames.jsonl")))
    print(
        f"\nwrote {outputs['annotated.mp4']}; frames.jsonl and results.json in its folder contain the masks"
    )


if __name__ == "__main__":
    demo(Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo"))
