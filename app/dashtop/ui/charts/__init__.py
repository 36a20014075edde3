"""History charts: Plotly figures as plain dicts."""
