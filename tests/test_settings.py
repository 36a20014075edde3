"""One typed settings object: command line > environment > TOML > default, and one clear line for a bad value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dashtop.cli import parse
from dashtop.model.errors import SettingsError
from dashtop.settings import Settings, load, options

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in options().values():
        for name in option.env:
            monkeypatch.delenv(name, raising=False)


def from_command_line(*arguments: str) -> Settings:
    return load(**parse(arguments)[1])


def test_defaults() -> None:
    settings = load()
    assert (settings.host, settings.port, settings.interval) == ("127.0.0.1", 8050, 1.0)
    assert settings.gpu
    assert settings.demo == 0


def test_order_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "dashtop.toml"
    file.write_text("port = 1111\ninterval = 2.0\nhost = '127.0.0.2'\n")
    monkeypatch.setenv("DASHTOP_CONFIG", str(file))
    assert load().port == 1111
    monkeypatch.setenv("DASHTOP_PORT", "2222")
    assert load().port == 2222
    settings = from_command_line("--port", "3333")
    assert (settings.port, settings.interval, settings.host) == (3333, 2.0, "127.0.0.2")


def test_own_variables_come_before_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "5000")
    monkeypatch.setenv("GPU_POLL_INTERVAL", "5")
    assert (load().port, load().interval) == (5000, 5.0)
    monkeypatch.setenv("DASHTOP_PORT", "6000")
    monkeypatch.setenv("DASHTOP_INTERVAL", "")
    assert (load().port, load().interval) == (6000, 5.0)


def test_variables_that_are_not_ours_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "somewhere")
    monkeypatch.setenv("INTERVAL", "often")
    monkeypatch.setenv("DEMO", "yes")
    assert load() == Settings()
    monkeypatch.setenv("DASHTOP_PORT", "tcp://10.0.0.7:8050")
    assert load().port == 8050


@pytest.mark.parametrize(
    ("arguments", "demo"),
    [([], 0), (["--demo"], 4), (["--demo", "8"], 8), (["--demo=2"], 2), (["--demo", "snapshot"], 4)],
)
def test_demo(arguments: list[str], demo: int) -> None:
    assert from_command_line(*arguments).demo == demo


@pytest.mark.parametrize(("value", "demo"), [("true", 4), ("3", 3), ("off", 0), ("0", 0)])
def test_demo_from_the_environment(monkeypatch: pytest.MonkeyPatch, value: str, demo: int) -> None:
    monkeypatch.setenv("DASHTOP_DEMO", value)
    assert load().demo == demo


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not from_command_line("--no-gpu").gpu
    monkeypatch.setenv("ENABLE_GPU_MONITORING", "false")
    assert not load().gpu


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "abc"], "--port"),
        (["--port", "70000"], "65535"),
        (["--interval", "0.1"], "0.5"),
        (["--interval", "nan"], "--interval"),
        (["--demo", "65"], "64"),
        (["--demo", "many"], "--demo"),
        (["--host", ""], "--host"),
        (["--colour"], "--colour"),
        (["fly"], "fly"),
        (["--config", "/nowhere/dashtop.toml"], "/nowhere/dashtop.toml"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_it(arguments: list[str], says: str) -> None:
    with pytest.raises(SettingsError) as error:
        from_command_line(*arguments)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"), [("prot = 1", "prot"), ("port = [", "cannot be read"), ("port = 'x'", "port")]
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "dashtop.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=says) as error:
        from_command_line("--config", str(file))
    assert "\n" not in str(error.value)


EXAMPLES = {
    "host": '"10.0.0.1"',
    "port": "9000",
    "interval": "2",
    "no-gpu": "true",
    "demo": "3",
    "url-prefix": '"/gpu/"',
    "token": '"long-enough-token"',
    "no-auth": "true",
    "frame-ancestors": '["https://portal.example"]',
    "allowed-hosts": '["gpu1.example"]',
    "trusted-proxies": "1",
    "rate-limit": '"5/second"',
    "data-dir": '"/srv/dashtop"',
    "no-persist": "true",
    "history-url": '"postgresql://db.example/gpu"',
    "keep-days": "90",
    "keep-mb": "500",
}


def test_every_option_but_config_has_an_example() -> None:
    assert {f"--{name}" for name in EXAMPLES} == {option.flag for option in options().values()} - {"--config"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_toml_file_accepts_option_names_with_dashes_or_underscores(name: str, tmp_path: Path) -> None:
    field = next(each for each, option in options().items() if option.flag == f"--{name}")
    for spelling in (name, name.replace("-", "_")):
        file = tmp_path / "dashtop.toml"
        file.write_text(f"{spelling} = {EXAMPLES[name]}\n")
        settings = load(config=str(file))
        assert getattr(settings, field) != Settings.model_fields[field].default
        assert settings.model_fields_set >= {field}
