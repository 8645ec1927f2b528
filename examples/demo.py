"""The whole path on made-up data: weights, export with verification, a video, tracked masks.

    make demo            (or: python examples/demo.py [FOLDER])

The weights follow a published rule and are untrained: what they find has no meaning, but every number on the
way is what a trained checkpoint would go through. The commands it prints work on your own files.
"""

import shlex
import sys
from pathlib import Path

import numpy as np

from idol_deploy.cli import main as idol_deploy
from idol_deploy.config import preset
from idol_deploy.reference import make_video, write_reference_checkpoint
from idol_runtime.files import replacing
from idol_runtime.optional import load_cv2

PRESET = "ytvis19_r50"
FRAMES, HEIGHT, WIDTH, SEED = 24, 240, 416, 7


def write_video(path: Path) -> None:
    """A generated video: six textured ellipses that drift, cover each other and vanish for single frames."""
    cv2 = load_cv2("writing the demonstration video")
    with replacing(path) as temporary:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter_fourcc(*"mp4v"), 8, (WIDTH, HEIGHT))
        for image in make_video(FRAMES, HEIGHT, WIDTH, SEED):
            writer.write(np.ascontiguousarray(image[::-1].transpose(1, 2, 0)))
        writer.release()


def run(*arguments: str) -> None:
    """Run one `idol-deploy` command as a user would type it; ends the demonstration if it fails."""
    print(f"\n$ idol-deploy {shlex.join(arguments)}", flush=True)
    status = idol_deploy(arguments)
    if status:
        sys.exit(status)


def demo(folder: Path) -> None:
    """Make everything in a folder, and say where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, bundle, video = folder / "weights.pth", folder / "model.idol", folder / "video.mp4"
    print(f"writing {weights} ({PRESET}, untrained) and {video}", flush=True)
    write_reference_checkpoint(weights, preset(PRESET))
    write_video(video)
    run(
        *("export", "--weights", str(weights), "--preset", PRESET, "--frame-size", f"{HEIGHT}x{WIDTH}"),
        *("--no-resize", "--verify", str(video), "--note", "untrained weights", "-o", str(bundle)),
    )
    outputs = {name: str(folder / name) for name in ("annotated.mp4", "frames.jsonl", "results.json")}
    run(
        *("run", str(bundle), "--source", str(video), "--save", outputs["annotated.mp4"], "--score", "0.3"),
        *("--jsonl", outputs["frames.jsonl"], "--results", outputs["results.json"]),
    )
    print(
        f"\nYour results are in {folder}: watch annotated.mp4; frames.jsonl and results.json hold the masks."
    )
    print(
        "The weights are untrained, so what is tracked means nothing; that it is tracked the same everywhere does."
    )


if __name__ == "__main__":
    demo(Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo"))
