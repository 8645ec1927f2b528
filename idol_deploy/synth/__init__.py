"""A synthetic video-instance-segmentation set that is hard where IDOL is good; needs no torch. See docs/synth.md."""

__all__: list[str] = []
