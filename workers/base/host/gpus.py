"""The GPUs this process sees, through NVIDIA's management library.

Needs the extra `gpu` and a driver. Without either there are none, which is no error: most workers have none.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import structlog

from contracts import Gpu

log = structlog.get_logger(__name__)

LIBRARY = "pynvml"


class Gpus:
    """Reads the figures. A GPU that cannot tell them is left out, all of them when the driver is gone."""

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
    """Percent. 0 where it is not told, as by a slice of a GPU."""
    try:
        return float(nvml.nvmlDeviceGetUtilizationRates(device).gpu)
    except nvml.NVMLError:
        return 0.0


def _opened() -> Any:
    """The library, ready to be asked; None without it or without a driver."""
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
