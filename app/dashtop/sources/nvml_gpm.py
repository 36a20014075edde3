"""SM activity through NVML's GPU Performance Monitoring (GPM): two samples and what happened between them."""

from __future__ import annotations

import time

import pynvml

from dashtop.domain.errors import Reason, Unavailable
from dashtop.sources.nvml_gate import call, call_or_none, reason_of

# NVML manual, nvmlGpmMetricsGet: samples closer than 100 ms may not carry valid metrics.
MINIMUM_GAP_S = 0.1


class SmActivity:
    """Keeps the last GPM sample of one GPU. Hopper and later answer; others raise Unavailable(NOT_SUPPORTED)."""

    def __init__(self, handle: object) -> None:
        self._handle = handle
        self._older: object | None = None
        self._newer: object | None = None
        self._taken_s = 0.0
        self._supported: bool | None = None

    def read(self) -> float:
        """Return percent of time with at least one warp on a multiprocessor since the last call."""
        if self._supported is None:
            self._supported = bool(call(pynvml.nvmlGpmQueryDeviceSupport, self._handle).isSupportedDevice)
        if not self._supported:
            raise Unavailable(Reason.NOT_SUPPORTED)
        if self._older is None:
            self._older = call(pynvml.nvmlGpmSampleAlloc)
            self._newer = call(pynvml.nvmlGpmSampleAlloc)
            self._take(self._older)
            raise Unavailable(Reason.FIRST_READING)
        if time.monotonic() - self._taken_s < MINIMUM_GAP_S:
            raise Unavailable(Reason.FIRST_READING)
        self._take(self._newer)
        request = pynvml.c_nvmlGpmMetricsGet_t()
        request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = 1
        request.sample1, request.sample2 = self._older, self._newer
        request.metrics[0].metricId = pynvml.NVML_GPM_METRIC_SM_UTIL
        self._older, self._newer = self._newer, self._older
        call(pynvml.nvmlGpmMetricsGet, request)
        metric = request.metrics[0]
        if metric.nvmlReturn != pynvml.NVML_SUCCESS:
            raise Unavailable(reason_of(metric.nvmlReturn))
        return float(metric.value)

    def _take(self, sample: object) -> None:
        call(pynvml.nvmlGpmSampleGet, self._handle, sample)
        self._taken_s = time.monotonic()

    def close(self) -> None:
        """Free the samples."""
        for sample in (self._older, self._newer):
            if sample is not None:
                call_or_none(pynvml.nvmlGpmSampleFree, sample)
        self._older = self._newer = None
