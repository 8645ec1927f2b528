"""An NVIDIA GPU in NVIDIA's management library (NVML), through nvidia-ml-py."""

from collections.abc import Callable, MutableMapping
from types import ModuleType
from typing import Any

from idol_runtime.backends.cuda_device import pci_bus_id
from idol_runtime.errors import BackendError
from idol_runtime.optional import import_optional

__all__ = ["Nvml"]

_Reasons = MutableMapping[str, str]  # why a sensor cannot be read, by its name


class Nvml:
    """The sensors of one GPU.

    The GPU is found by its PCI bus id: NVML ignores CUDA_VISIBLE_DEVICES and has another order of devices than CUDA.
    Methods write the reason of each value that cannot be read into `reasons`.
    """

    def __init__(self, index: int) -> None:
        """Start the library.

        Args:
            index: CUDA's index of the device.

        Raises:
            MissingDependencyError: nvidia-ml-py is not installed.
            BackendError: NVML does not start, or the CUDA driver or the device is missing.
        """
        self._nvml: ModuleType = import_optional("pynvml", "nvidia-ml-py", "bench", "reading a GPU's sensors")
        self._bus_id = pci_bus_id(index)
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise BackendError(
                f"NVML does not start: {error}; check that nvidia-smi shows the device"
            ) from error

    def read(self, reasons: _Reasons) -> dict[str, float]:
        """Read the sensors: `gpu_mhz`, `gpu_w`, `gpu_c`, `gpu_used_mib`, `gpu_energy_j` and `gpu_throttle`.

        `gpu_energy_j` counts since the driver was loaded; `gpu_throttle` has NVML's bits of reasons.
        """
        nvml = self._nvml
        return self._each(
            {
                "gpu_mhz": lambda gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
                "gpu_w": lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
                "gpu_c": lambda gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
                "gpu_used_mib": lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used / 2**20,
                "gpu_energy_j": lambda gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3,
                "gpu_throttle": self._throttle_bits,
            },
            reasons,
        )

    def facts(self) -> dict[str, Any]:
        """Return name, driver and power limit of the device, as far as they can be read."""
        nvml = self._nvml
        return self._each(
            {
                "gpu": lambda gpu: nvml.nvmlDeviceGetName(gpu),
                "driver": lambda _: nvml.nvmlSystemGetDriverVersion(),
                "power_limit_w": lambda gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1e3,
            },
            {},
        )

    def memory_mib(self, pid: int, reasons: _Reasons) -> float | None:
        """Return the device memory of a process with its CUDA context; None if NVML does not list it."""
        readers = {"device_mib": lambda gpu: self._nvml.nvmlDeviceGetComputeRunningProcesses(gpu)}
        lists = self._each(readers, reasons)
        for process in lists.get("device_mib", ()):
            if process.pid == pid and process.usedGpuMemory is not None:
                return float(process.usedGpuMemory / 2**20)
        if lists:
            reasons["device_mib"] = "NVML does not list the row's process; start a container with --pid=host"
        return None

    def _throttle_bits(self, gpu: Any) -> float:
        try:
            return float(self._nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))
        except (self._nvml.NVMLError, AttributeError):  # before driver 535
            return float(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))

    def _each(self, readers: dict[str, Callable[[Any], Any]], reasons: _Reasons) -> dict[str, Any]:
        """Call each function with the device and return the results of those that succeed."""
        values = {}
        for name, read in readers.items():
            try:
                values[name] = read(self._nvml.nvmlDeviceGetHandleByPciBusId(self._bus_id))
            except (self._nvml.NVMLError, AttributeError) as error:  # noqa: PERF203 - or a version without the function
                reasons[name] = f"NVML: {error}"
        return values
