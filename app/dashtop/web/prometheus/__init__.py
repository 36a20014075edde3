"""Prometheus: metric families made at each scrape from the latest sample and the metric tables."""
