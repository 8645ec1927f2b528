"""The generator of synthetic video-instance-segmentation data sets; needs no torch. See docs/synth.md."""

__all__: list[str] = []
