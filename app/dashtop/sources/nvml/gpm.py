"""What really runs on the GPU, through NVML's GPU Performance Monitoring (GPM): two samples and what lies between."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import pynvml

from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml.errors import call, call_or_none, reason_of

# NVML manual, nvmlGpmMetricsGet: samples closer than 100 ms may not carry valid metrics.
MINIMUM_GAP_S = 0.1


class Activity(NamedTuple):
    """Percent since the last sample; see GpuDevice."""

    sm: float | Unavailable
    occupancy: float | Unavailable
    tensor: float | Unavailable
    dram: float | Unavailable


METRIC_IDS = (
    pynvml.NVML_GPM_METRIC_SM_UTIL,
    pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
)


class ActivityMonitor:
    """Keeps the last GPM sample of one GPU. Hopper and later answer; others raise Unavailable(NOT_SUPPORTED)."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._samples: list[Any] = []
        self._taken_s = 0.0
        self._request = _request()

    def read(self) -> Activity:
        """Return the activity since the last call; FIRST_READING the first time, and after too short a time."""
        if not self._samples:
            if not call(pynvml.nvmlGpmQueryDeviceSupport, self._handle).isSupportedDevice:
                raise Unavailable(UnavailableReason.NOT_SUPPORTED)
            self._samples = [call(pynvml.nvmlGpmSampleAlloc), call(pynvml.nvmlGpmSampleAlloc)]
            self._take()
            raise Unavailable(UnavailableReason.FIRST_READING)
        if time.monotonic() - self._taken_s <= MINIMUM_GAP_S:
            raise Unavailable(UnavailableReason.FIRST_READING)
        self._samples.reverse()
        self._take()
        request = self._request
        request.sample2, request.sample1 = self._samples
        call(pynvml.nvmlGpmMetricsGet, request)
        return Activity(*(_value(request.metrics[position]) for position in range(len(METRIC_IDS))))

    def _take(self) -> None:
        call(pynvml.nvmlGpmSampleGet, self._handle, self._samples[0])
        self._taken_s = time.monotonic()

    def close(self) -> None:
        """Free the samples."""
        for sample in self._samples:
            call_or_none(pynvml.nvmlGpmSampleFree, sample)
        self._samples = []


def _request() -> Any:
    """Return the question for METRIC_IDS, less the two samples."""
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    request.numMetrics = len(METRIC_IDS)
    for position, number in enumerate(METRIC_IDS):
        request.metrics[position].metricId = number
    return request


def _value(metric: Any) -> float | Unavailable:
    if metric.nvmlReturn != pynvml.NVML_SUCCESS:
        return Unavailable(reason_of(metric.nvmlReturn))
    return float(metric.value)
