"""Track a video with the Python API.

python examples/stream.py model.idol clip.mp4
"""

import sys

from idol_runtime import Pipeline

with Pipeline.open(sys.argv[1]) as pipeline:
    for result in pipeline.stream(sys.argv[2]):
        found = zip(result.labels, result.ids, result.masks, strict=True)
        print(result.index, *(f"{result.class_names[k]} #{i}: {mask.sum()} pixels;" for k, i, mask in found))
