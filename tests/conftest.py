"""Fixtures for every test."""

pytest_plugins: list[str] = []
