"""Picture of the README: frames of an annotated video side by side.

python scripts/picture.py build/demo/annotated.mp4 docs/images/demo.png [FRAME ...]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from idol_runtime.files import replacing
from idol_runtime.sources.opening import open_source

_GAP = 6  # white pixels between frames


def picture(video: str, target: Path, indices: list[int]) -> None:
    """Write the frames with these indices in one row."""
    with open_source(video) as source:
        frames = [frame.image for frame in source if frame.index in indices]
    gap = np.full((frames[0].shape[0], _GAP, 3), 255, np.uint8)
    row = [part for frame in frames for part in (frame, gap)][:-1]
    with replacing(target) as temporary:
        Image.fromarray(np.concatenate(row, axis=1)).quantize(256).save(temporary, optimize=True)


if __name__ == "__main__":
    picture(sys.argv[1], Path(sys.argv[2]), [int(index) for index in sys.argv[3:]] or [4, 8, 12])
