"""Fixtures for every test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.postgresql import Postgres, find_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

# Minutes each: faults of disks and writers, screenshots, real notebook hosts and portals. Run with ALL_TESTS=1.
LONG_TESTS = [
    "browser/test_hanging_history.py",
    "browser/test_hostile_names.py",
    "browser/test_locked_history.py",
    "browser/test_nginx.py",
    "browser/test_notebook.py",
    "browser/test_portal.py",
    "browser/test_screenshots.py",
    "browser/test_shared_memory.py",
    "history/test_faults.py",
    "history/test_faulty_disk.py",
    "test_served_faults.py",
]
collect_ignore = [] if os.environ.get("ALL_TESTS") else LONG_TESTS

# Half a minute or more each, the longest first: started last, one of them would keep one process busy alone.
SLOW_TESTS = [
    "browser/test_failures.py",
    "sources/test_nvml_sessions.py",
    "test_connections.py",
    "browser/test_settings.py",
    "test_workers.py",
    "browser/test_charts.py",
    "history/test_postgresql.py",
    "browser/test_live.py",
    "sources/test_nvml_faults.py",
    "doctor/test_verify.py",
    "security/test_guard.py",
    "test_wheel.py",
]
SLOW_RANKS = {Path(__file__).parent / name: rank for rank, name in enumerate(SLOW_TESTS)}

pytest_plugins = ["tests.fake_nvml.fixtures"]


@pytest.hookimpl(trylast=True)  # pytest itself puts tests with the same parameters of fixtures side by side
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the slowest files first; each process that runs tests begins the next file of the list.

    Tests with the mark "long" run with ALL_TESTS=1 only.
    """
    items.sort(key=lambda item: SLOW_RANKS.get(item.path, len(SLOW_RANKS)))
    if not os.environ.get("ALL_TESTS"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(autouse=True, scope="session")
def _isolated_user_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep tests, and each dashtop that they start, away from the user's history and settings file."""
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        pytest.MonkeyPatch().setenv(name, str(tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the session; each test uses its own schema."""
    found = find_programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql): its tests are skipped")
    server = Postgres(found)
    try:
        server.start()
        yield server
    finally:
        server.remove()
