"""SM activity, occupancy, tensor and DRAM activity from NVML's GPU Performance Monitoring (GPM)."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import pynvml

from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml.bindings import call, call_or_none, get_reason

# NVML manual, nvmlGpmMetricsGet: samples closer than 100 ms may not carry valid metrics.
MIN_SAMPLE_INTERVAL_S = 0.1


class Activity(NamedTuple):
    """Percent since the last sample (see GpuDevice)."""

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


class GpmReader:
    """Compares the last two GPM samples of one GPU. Supported by Hopper and later."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._samples: list[Any] = []
        self._sampled_at = 0.0
        self._request = _build_request()

    def read(self) -> Activity:
        """Return the activity since the last call.

        Raise Unavailable: NOT_SUPPORTED, or FIRST_READING the first time and within MIN_SAMPLE_INTERVAL_S.
        """
        if not self._samples:
            if not call(pynvml.nvmlGpmQueryDeviceSupport, self._handle).isSupportedDevice:
                raise Unavailable(UnavailableReason.NOT_SUPPORTED)
            self._samples = [call(pynvml.nvmlGpmSampleAlloc), call(pynvml.nvmlGpmSampleAlloc)]
            self._take_sample()
            raise Unavailable(UnavailableReason.FIRST_READING)
        if time.monotonic() - self._sampled_at <= MIN_SAMPLE_INTERVAL_S:
            raise Unavailable(UnavailableReason.FIRST_READING)
        self._samples.reverse()
        self._take_sample()
        request = self._request
        request.sample2, request.sample1 = self._samples
        call(pynvml.nvmlGpmMetricsGet, request)
        return Activity(*(_parse_metric(request.metrics[position]) for position in range(len(METRIC_IDS))))

    def _take_sample(self) -> None:
        call(pynvml.nvmlGpmSampleGet, self._handle, self._samples[0])
        self._sampled_at = time.monotonic()

    def close(self) -> None:
        """Free the samples."""
        for sample in self._samples:
            call_or_none(pynvml.nvmlGpmSampleFree, sample)
        self._samples = []


def _build_request() -> Any:
    """Return the request for METRIC_IDS, without the two samples."""
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    request.numMetrics = len(METRIC_IDS)
    for position, metric_id in enumerate(METRIC_IDS):
        request.metrics[position].metricId = metric_id
    return request


def _parse_metric(metric: Any) -> float | Unavailable:
    if metric.nvmlReturn != pynvml.NVML_SUCCESS:
        return Unavailable(get_reason(metric.nvmlReturn))
    return float(metric.value)
