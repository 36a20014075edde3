"""Stored history as a file: made piece by piece, in constant memory, for the command and the API."""
