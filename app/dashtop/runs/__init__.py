"""Runs: which processes and GPUs belong to them, and their reports."""
