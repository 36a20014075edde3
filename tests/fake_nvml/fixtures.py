"""Fixtures for tests that need NVML: the compiled library, and worlds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fake_nvml.build import CompilerMissingError, Library, build_library
from tests.fake_nvml.world import World

WorldFactory = Callable[..., World]


@pytest.fixture(scope="session")
def fake_nvml_cache() -> Path:
    """Return the folder that keeps compiled libraries between test runs."""
    return Path(tempfile.gettempdir()) / f"dashtop-tests-fake-nvml-{os.getuid()}"


@pytest.fixture(scope="session")
def fake_nvml_library(fake_nvml_cache: Path) -> Library:
    """Return the library with all symbols."""
    try:
        return build_library(fake_nvml_cache)
    except CompilerMissingError as missing:
        pytest.fail(str(missing))


@pytest.fixture
def nvml_world(tmp_path: Path, fake_nvml_cache: Path, fake_nvml_library: Library) -> WorldFactory:
    """Return a function that creates worlds: `nvml_world("h100x8")` a recorded one, `nvml_world({...})` another."""
    count = 0

    def make(world: str | Mapping[str, Any]) -> World:
        nonlocal count
        count += 1
        file = tmp_path / f"world-{count}.txt"
        if isinstance(world, str):
            return World.load(world, file, fake_nvml_cache)
        return World(world, file, fake_nvml_cache)

    return make
