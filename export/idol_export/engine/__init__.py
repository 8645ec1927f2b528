"""The build of a TensorRT engine from a bundle, on the device, without PyTorch, onnx or ONNX Runtime."""

__all__: list[str] = []
