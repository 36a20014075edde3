"""The REST API: pure bodies, and the routes that answer with them."""
