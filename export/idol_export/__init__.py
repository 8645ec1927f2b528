"""From PyTorch to a bundle: the graph that ships, its ONNX file, and the proof that it computes the same."""

__all__: list[str] = []
