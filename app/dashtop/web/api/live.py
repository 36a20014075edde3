"""Calls about the latest sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.web.api import serializers as bodies
from dashtop.web.api.context import answer, gpus, one_gpu, readable_gpu, shown_gpu

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Response

    from dashtop.model.sample import Sample
    from dashtop.web.api.context import Context
    from dashtop.web.api.params import GpuQuery, Query


def monitoring_all(context: Context, query: GpuQuery) -> Response:
    """Answer with everything about the machine and one GPU."""
    sample = context.sample()
    gpu = shown_gpu(sample, query.gpu_id)
    key = ("monitoring_all", gpu.device.index if gpu is not None else None)
    return answer(context.cached.body(sample, key, lambda: bodies.monitoring_all(sample, gpu)))


def gpu_metrics(context: Context, query: GpuQuery) -> Response:
    """Answer with every metric of one GPU."""
    sample = context.sample()
    gpu = readable_gpu(sample, query.gpu_id)
    key = ("gpu_metrics", gpu.device.index)
    return answer(context.cached.body(sample, key, lambda: bodies.gpu_metrics_explained(gpu)))


def gpu_info(context: Context, query: GpuQuery) -> Response:
    """Answer with the static facts of one GPU."""
    return answer(bodies.gpu_info(one_gpu(context.sample(), query.gpu_id).device))


def _whole(make: Callable[[Sample], object]) -> Callable[[Context, Query], Response]:
    """Return a call that depends on nothing but the sample."""

    def call(context: Context, _query: Query) -> Response:
        sample = context.sample()
        return answer(context.cached.body(sample, make, lambda: make(sample)))

    return call


gpu_list = _whole(lambda sample: [bodies.gpu_info(gpu.device) for gpu in gpus(sample)])
gpu_metrics_all = _whole(lambda sample: [bodies.gpu_metrics_explained(gpu) for gpu in gpus(sample)])
system_metrics = _whole(lambda sample: bodies.system_metrics_explained(sample.host))
storage = _whole(lambda sample: [bodies.storage(mount) for mount in sample.host.mounts])


def _processes(sample: Sample) -> object:
    gpus(sample)  # says so where NVML failed: no processes is an answer of its own
    return bodies.processes(sample)


processes = _whole(_processes)
