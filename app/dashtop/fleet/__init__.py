"""Several machines: reads an engine that understands PromQL, or other dashtops. No storage, no web framework."""
