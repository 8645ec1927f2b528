"""Track a video with the Python API: python examples/stream.py model.idol clip.mp4"""

import sys

from idol_runtime import Pipeline

with Pipeline.open(sys.argv[1]) as pipeline:
    for result in pipeline.stream(sys.argv[2]):
        names = [
            f"{result.class_names[label]} #{track}"
            for label, track in zip(result.labels, result.ids, strict=True)
        ]
        print(result.index, ", ".join(names), f"{result.masks.sum()} pixels")
