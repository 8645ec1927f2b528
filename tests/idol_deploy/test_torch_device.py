import pytest
import torch

from idol_deploy.torch_device import torch_device
from idol_runtime.errors import ConfigError


def test_a_processor_works() -> None:
    assert torch_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("device", ["nonsense", "cuda:x", ""])
def test_what_is_no_device_is_told_in_one_sentence(device: str) -> None:
    with pytest.raises(ConfigError, match=f"^PyTorch cannot use device {device}; use cpu, cuda or cuda:N$"):
        torch_device(device)


def test_a_device_that_is_not_here_is_told_with_the_reason() -> None:
    with pytest.raises(
        ConfigError, match=r"^PyTorch cannot use device cuda:99: .+; use another, such as cpu$"
    ):
        torch_device("cuda:99")
