"""Stored history as a file in constant memory, for the command and the API."""
