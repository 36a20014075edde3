"""Fixtures for every test."""

import pytest

pytest_plugins = ["tests.fake_nvml.fixtures"]


@pytest.fixture(autouse=True, scope="session")
def _own_data_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test, nor a dashtop that it starts, touches the history of whoever runs the tests."""
    pytest.MonkeyPatch().setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
