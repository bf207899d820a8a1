"""The GPUs that this process sees, through NVIDIA's management library.

Needs the extra `gpu` and a driver. Without them there are no GPUs, which is no error: most workers have none.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import structlog

from contracts import Gpu

log = structlog.get_logger(__name__)

LIBRARY = "pynvml"


class Gpus:
    """Reads the figures of the GPUs. A GPU without figures is left out; when the driver is gone, all are."""

    def __init__(self) -> None:
        self._nvml = _opened()

    def read(self) -> tuple[Gpu, ...]:
        if self._nvml is None:
            return ()
        try:
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as error:
            log.warning("gpus_lost", error=str(error))
            self._nvml = None
            return ()
        return tuple(gpu for index in range(count) for gpu in self._gpu(self._nvml, index))

    def _gpu(self, nvml: Any, index: int) -> Iterator[Gpu]:
        try:
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            memory = nvml.nvmlDeviceGetMemoryInfo(device)
            name = nvml.nvmlDeviceGetName(device)
        except nvml.NVMLError:  # one of a slice, or one that fell off the bus
            return
        yield Gpu(
            name=name.decode(errors="replace") if isinstance(name, bytes) else name,  # bytes before version 11.5
            memory_used=memory.used,
            memory_total=memory.total,
            utilization=_utilization(nvml, device),
        )


def _utilization(nvml: Any, device: Any) -> float:
    """How busy the GPU is, in percent. 0 where the driver does not report it, as for a slice of a GPU."""
    try:
        return float(nvml.nvmlDeviceGetUtilizationRates(device).gpu)
    except nvml.NVMLError:
        return 0.0


def _opened() -> Any:
    """The library, initialized; None when it or the driver is missing."""
    try:
        nvml = import_module(LIBRARY)
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        log.debug("no_gpus", error=str(error))
        return None
    return nvml
