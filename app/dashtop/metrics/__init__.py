"""The metric tables. To add a metric, add one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dashtop.metrics.gpu import GPU_METRICS
from dashtop.metrics.host import HOST_METRICS

if TYPE_CHECKING:
    from dashtop.model.metric import Metric

ALL_METRICS: tuple[Metric[Any], ...] = (*GPU_METRICS, *HOST_METRICS)
METRICS: dict[str, Metric[Any]] = {metric.key: metric for metric in ALL_METRICS}

__all__ = ["ALL_METRICS", "GPU_METRICS", "HOST_METRICS", "METRICS"]
