"""From a bundle to a TensorRT engine, on the device that will run it: without PyTorch, onnx or ONNX Runtime."""

__all__: list[str] = []
