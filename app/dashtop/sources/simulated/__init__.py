"""Simulated GPUs for `--demo`."""
