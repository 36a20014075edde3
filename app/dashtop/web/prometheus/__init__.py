"""Prometheus exporter: metric families built from the latest sample and the metric tables."""
