"""PyTorch as a backend of the runtime's `Pipeline`: the reference for all other backends."""

import numpy as np
import torch
from numpy.typing import NDArray

from idol_deploy.model.geometry import padding_mask
from idol_deploy.model.idol import Idol
from idol_runtime.backends.base import BatchLimit
from idol_runtime.errors import ConfigError
from idol_runtime.preprocess import normalise
from idol_runtime.tracking.detection import NetworkOutput

__all__ = ["TorchBackend", "torch_device"]


def torch_device(device: str) -> torch.device:
    """Return the PyTorch device of this name after checking that it works.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: the device does not exist, or PyTorch cannot use it.
    """
    try:
        chosen = torch.device(device)
    except RuntimeError as error:  # its text lists every device type that PyTorch supports
        raise ConfigError(f"PyTorch cannot use device {device}; use cpu, cuda or cuda:N") from error
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch is built without CUDA
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"PyTorch cannot use device {device}: {reason}; use another, such as cpu"
        ) from error
    return chosen


class TorchBackend:
    """Runs the network in evaluation mode, on frames of any size unless `network_size` is given.

    Example:
        Pipeline(TorchBackend(load_checkpoint("idol.pth", config)), config.stream)
    """

    graph = None
    reason = ""
    batch = BatchLimit()

    def __init__(self, model: Idol, network_size: tuple[int, int] | None = None) -> None:
        self._model = model.eval()
        self.network_size = network_size

    @property
    def name(self) -> str:
        """Engine and device, such as `pytorch (cpu)`."""
        return f"pytorch ({next(self._model.parameters()).device})"

    @torch.inference_mode()
    def infer(
        self,
        images: NDArray[np.uint8],  # [N, h, w, 3]
    ) -> list[NetworkOutput]:
        """Run the network on a batch; return one output per frame."""
        height, width = images.shape[1:3]
        device = next(self._model.parameters()).device
        inputs = np.stack([normalise(image, self._model.config.preprocessing) for image in images])
        padding = padding_mask((height, width), (inputs.shape[2], inputs.shape[3]), len(images)).to(device)
        output = self._model(torch.from_numpy(inputs).to(device), padding)
        reference = output.mask_reference * output.mask_reference.new_tensor([width, height])
        fields = (output.logits, output.boxes, output.embeddings, output.mask_features, output.mask_params)
        arrays = [tensor.float().cpu().numpy() for tensor in (*fields, reference)]
        return [NetworkOutput(*(array[i] for array in arrays)) for i in range(len(images))]

    def close(self) -> None:
        """Do nothing: the caller owns the model."""
