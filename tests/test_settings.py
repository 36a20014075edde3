"""One typed settings object: command line > environment > TOML > default, and one clear line for a bad value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dashtop.app import data_folder
from dashtop.cli import COMMANDS, parse
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


ACTIONS = ["--allow-actions", "own", "--action-token", "some-action-token"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "abc"], "--port 'abc': must be a whole number from 0 to 65535"),
        (["--port", "70000"], "--port '70000': must be a whole number from 0 to 65535"),
        (["--interval", "0.1"], "--interval '0.1': must be a number from 0.5 to 60"),
        (["--interval", "nan"], "--interval 'nan': must be a number from 0.5 to 60"),
        (["--demo", "65"], "--demo '65': must be a whole number from 0 to 64"),
        (["--demo", "many"], "--demo 'many': must be a whole number"),
        (["--host", ""], "--host '': must be an address of this machine"),
        (["--url-prefix", "/a b/"], "--url-prefix '/a b/': must be a path of letters"),
        (["--frame-ancestors", "https://a.example;"], "--frame-ancestors 'https://a.example;': must be origins"),
        (["--allowed-hosts", "a/b"], "--allowed-hosts 'a/b': must be host names"),
        (["--rate-limit", "10"], "--rate-limit '10': must be a number per second"),
        (["--token", "fifteen-letters"], "--token: must have 16 to 200 characters"),
        (["--token", "sixteen-and-umlaut-ä"], "--token: must have 16 to 200 characters"),
        (["--keep-mb", "1"], "--keep-mb '1': must be a whole number from 50 to 1000000"),
        (["--auth-header", "X-User"], "needs --trusted-proxies"),
        (["--auth-header", "X User", "--trusted-proxies", "1"], "must be the name of a header"),
        (
            ["--token", "the-same-token-twice", "--embed-token", "the-same-token-twice"],
            "--embed-token: must differ from --token",
        ),
        (["--no-auth", "--embed-token", "some-embed-token"], "--embed-token: has no effect with --no-auth"),
        (["--fleet-url", "prometheus:9090"], "--fleet-url: must be the base address of an engine"),
        (["--fleet-url", "ftp://u:secret@x"], "--fleet-url: must be the base address of an engine"),
        (["--fleet-peers", "gpu1,gpu 2/x?"], "must be addresses such as gpu1"),
        (["--fleet-peers", "gpu1,http://gpu1:8050"], "an address is given twice"),
        (["--fleet-peers", ",".join(f"gpu{number}" for number in range(51))], "must be at most 50 addresses"),
        (["--fleet-peers", "@/nowhere/peers"], "the file cannot be read (No such file or directory)"),
        (["--fleet-peers", "gpu1", "--fleet-url", "http://x"], "cannot be combined with --fleet-url"),
        (["--fleet-token", "with space"], "--fleet-token: must have 1 to 4096 visible ASCII characters"),
        (["--fleet-headers", "no colon"], "--fleet-headers: must be headers such as X-Scope-OrgID: lab"),
        (["--fleet-select", "cluster"], "must be matchers of labels such as"),
        (["--fleet-select", 'a="b"} or up{c="d"'], "must be matchers of labels such as"),
        (["--fleet-node-label", "a-b"], "must be the name of a label"),
        (["--fleet-interval", "0"], "must be a number from 1 to 600"),
        (["--allow-actions", "some"], "--allow-actions 'some': must be 'off', 'own' or 'all'"),
        (["--allow-actions", "own"], "--allow-actions own: needs --action-token"),
        (["--action-token", "some-action-token"], "--action-token: has no effect without --allow-actions"),
        ([*ACTIONS, "--action-token", "fifteen-letters"], "--action-token: must have 16 to 200 characters"),
        ([*ACTIONS, "--token", "some-action-token"], "--action-token: must differ from --token and --embed-token"),
        ([*ACTIONS, "--embed-token", "some-action-token"], "--action-token: must differ from --token"),
        ([*ACTIONS, "--no-auth"], "--allow-actions own: cannot be used with --no-auth"),
        ([*ACTIONS, "--demo"], "--allow-actions own: cannot be used with --demo"),
        ([*ACTIONS, "--no-persist"], "--allow-actions own: cannot be used with --no-persist"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["fly"], "invalid choice: 'fly'"),
        (["--config", "/nowhere/dashtop.toml"], "There is no settings file /nowhere/dashtop.toml"),
    ],
)
def test_impossible_value_is_one_sentence_that_says_what_is_allowed(arguments: list[str], sentence: str) -> None:
    with pytest.raises(SettingsError) as error:
        from_command_line(*arguments)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert "pattern" not in str(error.value)


@pytest.mark.parametrize("text", ["correct-horse-battery", "correct-horse-battery\n", " correct-horse-battery \r\n"])
def test_token_is_read_from_a_file(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    monkeypatch.setenv("DASHTOP_TOKEN_FILE", str(file))
    assert load().token == "correct-horse-battery"
    assert load(token="another-horse-battery").token == "another-horse-battery"
    assert "horse" not in repr(load())
    with pytest.raises(SettingsError, match="must differ from --embed-token"):
        load(embed_token="correct-horse-battery")


def test_secrets_of_a_fleet_are_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret-token\n")
    settings = load(
        fleet_url="https://reader:s3cret@prometheus.example/", fleet_token_file=str(file), fleet_headers="X-Key: s3cret"
    )
    assert (settings.fleet_token, settings.fleet_headers) == ("s3cret-token", ("X-Key: s3cret",))
    assert "s3cret" not in repr(settings)
    assert load(fleet_token_file=str(file), fleet_token="another").fleet_token == "another"
    with pytest.raises(SettingsError, match=r"--fleet-token-file .*: cannot be read \(No such file"):
        load(fleet_token_file=str(tmp_path / "missing"))
    file.write_text("two words")
    with pytest.raises(SettingsError, match="the token must have 1 to 4096 visible ASCII characters"):
        load(fleet_token_file=str(file))


def test_peers_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "peers"
    file.write_text("gpu1  # the old one\n\ngpu2:9000, https://gpu3.example/gpu/\n# gpu4\n")
    assert load(fleet_peers=f"@{file}").fleet_peers == ("gpu1", "gpu2:9000", "https://gpu3.example/gpu/")


def test_action_token_is_read_from_a_file_and_stays_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("some-action-token\n")
    settings = load(allow_actions="own", action_token_file=str(file))
    assert settings.action_token == "some-action-token"
    assert "some-action" not in repr(settings)
    monkeypatch.setenv("DASHTOP_ACTION_TOKEN", "other-action-token")
    assert load(allow_actions="own", action_token_file=str(file)).action_token == "other-action-token"
    monkeypatch.delenv("DASHTOP_ACTION_TOKEN")
    file.write_text("short")
    with pytest.raises(SettingsError, match=f"--action-token-file {file}: the token must have 16 to 200"):
        load(allow_actions="own", action_token_file=str(file))


@pytest.mark.parametrize("content", [b"", b"fifteen-letters", b"two lines\nof a token", b"\xff" * 20, b"a" * 300, None])
def test_invalid_token_file_is_one_sentence(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as error:
        load(token_file=str(file))
    expected = "must have 16 to 200 characters" if content is not None else "cannot be read (No such file"
    assert str(error.value).startswith(f"--token-file {file}: ")
    assert expected in str(error.value)


@pytest.mark.parametrize("name", ["https://münchen.example", "https://例え.example"])
def test_international_name_of_a_frame_ancestor_is_explained(name: str) -> None:
    with pytest.raises(SettingsError, match="xn--"):
        load(frame_ancestors=name)
    punycode = name.encode("idna").decode()
    assert load(frame_ancestors=punycode).frame_ancestors == (punycode,)


def test_error_of_environment_variable_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_GPU_MONITORING", "perhaps")
    with pytest.raises(SettingsError, match=r"--no-gpu 'perhaps': must be true or false .*ENABLE_GPU_MONITORING"):
        load()


def test_frame_ancestors_may_be_origins_and_schemes() -> None:
    given = "'self' vscode-webview: https://portal.example/ https://*.example:8443 http://127.0.0.1:*"
    assert from_command_line("--frame-ancestors", given).frame_ancestors == (
        "'self'", "vscode-webview:", "https://portal.example", "https://*.example:8443", "http://127.0.0.1:*"
    )  # fmt: skip


def test_prefix_of_a_hub_service_counts_and_that_of_a_user_server_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
    assert load().url_prefix == "/"
    monkeypatch.setenv("JUPYTERHUB_SERVICE_NAME", "gpus")
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/services/gpus/")
    assert load().url_prefix == "/services/gpus/"


def test_unknown_variable_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    # Kubernetes sets these beside a Service called dashtop; show() reads DASHTOP_PROXY_URL.
    for name in ("DASHTOP_SERVICE_HOST", "DASHTOP_PORT_8050_TCP_ADDR", "DASHTOP_PROXY_URL"):
        monkeypatch.setenv(name, "x")
    load()
    assert caplog.text == ""
    monkeypatch.setenv("DASHTOP_TOKN", "correct-horse")
    assert load().token is None
    assert "DASHTOP_TOKN is not a setting of dashtop. Did you mean DASHTOP_TOKEN?" in caplog.text
    assert "correct-horse" not in caplog.text


def test_default_settings_file_is_read_if_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load().port == 8050
    (tmp_path / "dashtop").mkdir()
    (tmp_path / "dashtop" / "config.toml").write_text("port = 1111\n")
    assert load().port == 1111
    other = tmp_path / "other.toml"
    other.write_text("interval = 2\n")
    assert (load(config=other).port, load(config=other).interval) == (8050, 2.0)


def test_history_of_each_host_is_apart_in_a_shared_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folders = []
    for name in ("gpu1", "gpu2.example", "../evil"):
        monkeypatch.setattr("platform.node", lambda name=name: name)
        folders.append(data_folder(load()))
    assert folders == [tmp_path / "dashtop" / name for name in ("gpu1", "gpu2.example", ".._evil")]
    assert data_folder(load(data_dir=str(tmp_path))) == tmp_path


# --- commands -------------------------------------------------------------------------------------------------------


def read_help(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse([*arguments, "--help"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_lists_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    text = read_help(capsys)
    for option in options().values():
        assert option.flag in text
        assert all(name in text for name in option.env)
    assert "(default: 8050)" in text


OWN_OPTIONS = {"run": {"token"}}  # of the client: the token of a server, which is not started here


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_lists_its_options_only(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = read_help(capsys, command)
    settings = COMMANDS[command].settings
    shown = set(options() if settings is None else settings) | OWN_OPTIONS.get(command, set())
    for name, option in options().items():
        assert (f"{option.flag} " in text or f"{option.flag}]" in text) == (name in shown), name


def test_settings_before_and_after_the_command_count() -> None:
    command, given = parse(["--demo", "2", "export", "--range", "1h", "--data-dir", "/srv/data"])
    assert given == {"demo": "2", "data_dir": "/srv/data"}
    assert command.keywords == {"range": "1h"}
    with pytest.raises(SettingsError, match="--port"):
        parse(["snapshot", "--port", "80"])


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_script_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--print-completion", shell])
    script = capsys.readouterr().out
    assert all(word in script for word in ("snapshot", "--keep-days", "--range"))


@pytest.mark.parametrize(
    ("text", "says"), [("prot = 1", "Did you mean port"), ("port = [", "cannot be read"), ("port = 'x'", "port")]
)
def test_invalid_file_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "dashtop.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=says) as error:
        from_command_line("--config", str(file))
    assert "\n" not in str(error.value)


EXAMPLES = {
    "price-kwh": "0.31",
    "price-gpu-hour": "2",
    "public-url": '"https://gpu1.example/dashtop/"',
    "host": '"10.0.0.1"',
    "port": "9000",
    "notebook-names": "true",
    "jupyter": '"http://127.0.0.1:8888/?token=abc"',
    "interval": "2",
    "no-gpu": "true",
    "demo": "3",
    "demo-scene": '"hang"',
    "url-prefix": '"/gpu/"',
    "token": '"long-enough-token"',
    "token-file": '"/run/secrets/dashtop"',
    "allow-actions": '"own"',
    "action-token": '"long-action-token"',
    "action-token-file": '"/run/secrets/dashtop-actions"',
    "no-auth": "true",
    "embed-token": '"another-long-token"',
    "frame-ancestors": '["https://portal.example"]',
    "allowed-hosts": '["gpu1.example"]',
    "trusted-proxies": "1",
    "auth-header": '"X-Forwarded-User"',
    "rate-limit": '"5/second"',
    "data-dir": '"/srv/dashtop"',
    "no-persist": "true",
    "history-url": '"postgresql://db.example/gpu"',
    "keep-days": "90",
    "keep-mb": "500",
    "fleet-url": '"https://reader:secret@mimir.example/prometheus"',
    "fleet-peers": '["gpu1", "https://gpu2.example"]',
    "fleet-token": '"fleet-token"',
    "fleet-token-file": '"/run/secrets/fleet"',
    "fleet-headers": '"X-Scope-OrgID: lab"',
    "fleet-cert": '"/etc/ssl/dashtop.pem"',
    "fleet-select": """'cluster="lab"'""",
    "fleet-node-label": '"node"',
    "fleet-interval": "30",
}


def test_every_option_but_config_has_an_example() -> None:
    assert {f"--{name}" for name in EXAMPLES} == {option.flag for option in options().values()} - {"--config"}


NEEDED = {
    "action-token": "allow-actions = 'own'\n",
    "action-token-file": "allow-actions = 'own'\naction-token = 'long-action-token'\n",
    "allow-actions": "action-token = 'long-action-token'\n",
    "auth-header": "trusted-proxies = 1\n",
    "demo-scene": "demo = true\n",
    "jupyter": "notebook-names = true\n",
    "token-file": "token = 'long-enough-token'\n",
    "fleet-token-file": "fleet-token = 'fleet-token'\n",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_toml_file_accepts_option_names_with_dashes_or_underscores(name: str, tmp_path: Path) -> None:
    field = next(each for each, option in options().items() if option.flag == f"--{name}")
    for spelling in (name, name.replace("-", "_")):
        file = tmp_path / "dashtop.toml"
        needed = NEEDED.get(name, "")
        file.write_text(f"{needed}{spelling} = {EXAMPLES[name]}\n")
        settings = load(config=str(file))
        assert getattr(settings, field) != Settings.model_fields[field].default
        assert settings.model_fields_set >= {field}
