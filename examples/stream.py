"""Track a video with the Python API.

python examples/stream.py model.idol clip.mp4
"""

import sys

from idol_runtime import IdolError, Pipeline

if len(sys.argv) != 3:
    sys.exit("usage: python examples/stream.py model.idol clip.mp4")
try:
    with Pipeline.open(sys.argv[1]) as pipeline:
        for result in pipeline.stream(sys.argv[2]):
            tracks = zip(result.labels, result.ids, result.masks, strict=True)
            names = result.class_names
            print(result.index, *(f"{names[k]} #{i}: {mask.sum()} pixels;" for k, i, mask in tracks))
except IdolError as error:
    sys.exit(f"error: {error}")
