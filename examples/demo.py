"""The trained model on a video of identities that it never saw: they cross, hide, vanish and return.

    make demo            (or: python examples/demo.py [FOLDER])

Needs `pip install 'idol-deploy[cpu,video]'` and no PyTorch. The commands it prints work on your own files.
"""

import shlex
import sys
from pathlib import Path

from idol_deploy.cli import main as idol_deploy
from idol_deploy.data.ytvis import read_dataset
from idol_deploy.evaluate.assignment import NOBODY, who_shows_whom
from idol_deploy.evaluate.reappearance import follow_absences
from idol_deploy.studies.figure.tracks import read_tracks

MODEL = Path(__file__).parents[1] / "models/edge_synth/edge_synth.idol"
SEED = 7


def run(*arguments: str) -> None:
    """Run one `idol-deploy` command as a user would type it; ends the demonstration if it fails."""
    print(f"\n$ idol-deploy {shlex.join(arguments)}", flush=True)
    status = idol_deploy(arguments)
    if status:
        sys.exit(status)


def returns(annotations: Path, results: Path) -> list[str]:
    """What became of every instance that was away for some frames, in words."""
    dataset, found = read_dataset(annotations), read_tracks(results)
    (video,) = dataset.videos
    names = {category.dataset_id: category.name for category in dataset.categories}
    truth = dataset.tracks(video.id)
    shown = who_shows_whom([track.masks for track in found.tracks], [track.masks for track in truth])
    told = []
    for instance, row in zip(truth, shown, strict=True):
        for absence in follow_absences(instance.masks.areas > 0, row):
            was, now = (
                "unseen" if number == NOBODY else f"#{found.tracks[number].id}"
                for number in (absence.before, absence.after)
            )
            away = f"a {names[instance.category_id]} was away for frames {absence.first} to {absence.last}"
            told.append(f"{away}: before {was}, after {now}")
    return told


def demo(folder: Path) -> None:
    """Make everything in a folder, and say where it is."""
    clip = folder / "clip"
    if not clip.is_dir():
        size = ("--size", "480x768", "--frames", "40")
        run("synth", "--split", "val", "--videos", "1", "--seed", str(SEED), *size, "-o", str(clip))
    outputs = {name: str(folder / name) for name in ("annotated.mp4", "frames.jsonl", "results.json")}
    run(
        *("run", str(MODEL), "--source", str(clip / "JPEGImages/00001"), "--save", outputs["annotated.mp4"]),
        *("--score", "0.3", "--jsonl", outputs["frames.jsonl"], "--results", outputs["results.json"]),
    )
    print("\nThe annotations of the video, against the identities that the model gave:")
    print("\n".join(returns(clip / "instances.json", folder / "frames.jsonl")))
    print(f"\nWatch {outputs['annotated.mp4']}; frames.jsonl and results.json beside it hold the masks.")


if __name__ == "__main__":
    demo(Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo"))
