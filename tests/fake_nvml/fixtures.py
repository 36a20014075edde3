"""Fixtures for tests that need NVML: a built library, and worlds to start programs in."""

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
    """Where built libraries are kept from one test run to the next."""
    return Path(tempfile.gettempdir()) / f"dashtop-tests-fake-nvml-{os.getuid()}"


@pytest.fixture(scope="session")
def fake_nvml_library(fake_nvml_cache: Path) -> Library:
    """The library with every symbol it has."""
    try:
        return build_library(fake_nvml_cache)
    except CompilerMissingError as missing:
        pytest.fail(str(missing))


@pytest.fixture
def nvml_world(tmp_path: Path, fake_nvml_cache: Path, fake_nvml_library: Library) -> WorldFactory:
    """Makes worlds: `nvml_world("h100x8")` a recorded one, `nvml_world({...})` one of your own. Not yet saved."""
    made = 0

    def make(world: str | Mapping[str, Any]) -> World:
        nonlocal made
        made += 1
        file = tmp_path / f"world-{made}.txt"
        if isinstance(world, str):
            return World.load(world, file, fake_nvml_cache)
        return World(world, file, fake_nvml_cache)

    return make
