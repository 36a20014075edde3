"""HTTP interfaces: REST API, Prometheus endpoint, request security."""
