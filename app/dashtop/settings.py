"""Every setting, each one field of one typed class: command line > environment > TOML file > default."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from platformdirs import user_config_path
from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from dashtop.alerts.channels import Channel  # noqa: TC001 - pydantic evaluates it
from dashtop.alerts.overrides import RuleOverride, parse_overrides
from dashtop.fleet.addresses import MAX_PEERS
from dashtop.fleet.queries import parse_matchers
from dashtop.history.postgresql_url import validate_database_url
from dashtop.model.action import ActionScope
from dashtop.model.errors import SettingsError
from dashtop.model.usage import Prices
from dashtop.setting_values import (
    CREDENTIAL,
    CREDENTIAL_REQUIREMENT,
    DEFAULT_DEMO_GPUS,
    FRAME_ANCESTOR,
    TOKEN,
    Option,
    check_demo,
    check_headers,
    check_pattern,
    check_peers,
    check_scene,
    normalize_prefix,
    parse_demo,
    read_peers,
    split_headers,
    split_list,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

CONFIG_FILE: Final = "config.toml"
MAX_QUOTED_LENGTH: Final = 80
MAX_TOKEN_FILE_BYTES: Final = 1024
MAX_FLEET_TOKEN_FILE_BYTES: Final = 8192

# Names that begin like ours but are not settings: dashtop.notebook reads DASHTOP_PROXY_URL, and Kubernetes sets the
# others in every pod beside a Service called dashtop.
_OTHER_VARIABLES: Final = re.compile(r"DASHTOP_(PROXY_URL|URL|SERVICE_\w+|PORT_\d+_\w+)", re.ASCII)

log = logging.getLogger(__name__)


class Settings(BaseSettings):
    """The settings of one dashtop. Raises SettingsError (through `load`) for an unknown or impossible value."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        populate_by_name=True,
        case_sensitive=True,
        env_ignore_empty=True,
    )

    config: Annotated[
        Path | None,
        Field(validation_alias=AliasChoices("DASHTOP_CONFIG"), description="TOML file with settings"),
        Option(flag="--config", metavar="FILE"),
    ] = None
    host: Annotated[
        str,
        Field(validation_alias=AliasChoices("DASHTOP_HOST"), description="address to listen on"),
        Option(flag="--host", metavar="ADDRESS"),
        check_pattern(r".+", "must be an address of this machine, such as 127.0.0.1 or 0.0.0.0"),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Field(
            ge=0,
            le=65535,
            validation_alias=AliasChoices("DASHTOP_PORT", "PORT"),
            description="port to listen on; 0 takes a free one and prints it",
        ),
        Option(flag="--port", metavar="PORT"),
    ] = 8050
    interval: Annotated[
        float,
        Field(
            ge=0.5,
            le=60,
            allow_inf_nan=False,
            validation_alias=AliasChoices("DASHTOP_INTERVAL", "GPU_POLL_INTERVAL"),
            description="seconds between two collections, 0.5 to 60",
        ),
        Option(flag="--interval", metavar="SECONDS"),
    ] = 1.0
    gpu: Annotated[
        bool,
        Field(validation_alias=AliasChoices("ENABLE_GPU_MONITORING"), description="disable GPU monitoring"),
        Option(flag="--no-gpu", flag_value="false"),
    ] = True
    demo: Annotated[
        int | Path,
        BeforeValidator(parse_demo),
        AfterValidator(check_demo),
        Field(
            validation_alias=AliasChoices("DASHTOP_DEMO"),
            description=f"show N simulated GPUs ({DEFAULT_DEMO_GPUS} if N is left out), or those of a file that"
            " `dashtop doctor --record` wrote; marked as simulated",
        ),
        Option(flag="--demo", metavar="N/FILE", flag_value=str(DEFAULT_DEMO_GPUS), has_optional_value=True),
    ] = 0
    demo_scene: Annotated[
        str | None,
        AfterValidator(check_scene),
        Field(
            validation_alias=AliasChoices("DASHTOP_DEMO_SCENE"),
            description="show a fault in the demo, by the name of its alert rule; not-NAME shows a false alarm of it",
        ),
        Option(flag="--demo-scene", metavar="NAME"),
    ] = None

    url_prefix: Annotated[
        str,
        BeforeValidator(normalize_prefix),
        Field(
            validation_alias=AliasChoices("DASHTOP_URL_PREFIX", "JUPYTERHUB_SERVICE_PREFIX"),
            description="path below which a proxy serves dashtop, such as /gpu/",
        ),
        Option(flag="--url-prefix", metavar="PATH"),
        check_pattern(r"/([\w.~@+-]+/)*", "must be a path of letters, digits and . _ ~ @ + - such as /tools/gpu/"),
    ] = "/"
    token: Annotated[
        str | None,
        Field(
            repr=False,
            validation_alias=AliasChoices("DASHTOP_TOKEN"),
            description="access token; generated and printed if others can connect, directly or through a proxy",
        ),
        Option(flag="--token", metavar="TOKEN", is_secret=True),
        TOKEN,
    ] = None
    token_file: Annotated[
        Path | None,
        Field(
            validation_alias=AliasChoices("DASHTOP_TOKEN_FILE"),
            description="file with the access token, which other users cannot see there; --token comes first",
        ),
        Option(flag="--token-file", metavar="FILE"),
    ] = None
    auth: Annotated[
        bool,
        Field(validation_alias=AliasChoices("DASHTOP_AUTH"), description="disable authentication"),
        Option(flag="--no-auth", flag_value="false"),
    ] = True
    embed_token: Annotated[
        str | None,
        Field(
            repr=False,
            validation_alias=AliasChoices("DASHTOP_EMBED_TOKEN"),
            description="token that opens the pages under /embed only, for portals",
        ),
        Option(flag="--embed-token", metavar="TOKEN", is_secret=True),
        TOKEN,
    ] = None
    allow_actions: Annotated[
        ActionScope,
        Field(
            validation_alias=AliasChoices("DASHTOP_ALLOW_ACTIONS"),
            description="whose processes on GPUs the page may end and pause: own (of dashtop's user) or all (as root);"
            " needs --action-token",
        ),
        Option(flag="--allow-actions", metavar="own/all"),
    ] = ActionScope.OFF
    action_token: Annotated[
        str | None,
        Field(
            repr=False,
            validation_alias=AliasChoices("DASHTOP_ACTION_TOKEN"),
            description="token that actions on processes need, beside the access token; other users can see it in the"
            " list of processes, unlike one in the environment or a file",
        ),
        Option(flag="--action-token", metavar="TOKEN", is_secret=True),
        TOKEN,
    ] = None
    action_token_file: Annotated[
        Path | None,
        Field(
            validation_alias=AliasChoices("DASHTOP_ACTION_TOKEN_FILE"),
            description="file with the action token; --action-token comes first",
        ),
        Option(flag="--action-token-file", metavar="FILE"),
    ] = None
    frame_ancestors: Annotated[
        tuple[Annotated[str, BeforeValidator(lambda value: str(value).rstrip("/")), FRAME_ANCESTOR], ...],
        NoDecode,
        BeforeValidator(split_list),
        Field(
            validation_alias=AliasChoices("DASHTOP_FRAME_ANCESTORS"),
            description="origins that may embed the pages, such as https://portal.example; without it, its own"
            " and, if it listens on loopback only, those of this machine",
        ),
        Option(flag="--frame-ancestors", metavar="ORIGINS"),
    ] = ("'self'",)
    public_url: Annotated[
        str | None,
        Field(
            validation_alias=AliasChoices("DASHTOP_PUBLIC_URL"),
            description="address under which people open the page, for links in notices of alerts",
        ),
        Option(flag="--public-url", metavar="URL"),
        check_pattern(
            r"https?://[\w.:\[\]-]+(/[\w.~/-]*)?", "must be an address such as https://gpu1.example/dashtop/"
        ),
    ] = None
    allowed_hosts: Annotated[
        tuple[Annotated[str, check_pattern(r"[\w.:-]+", "must be host names such as gpu1.example")], ...],
        NoDecode,
        BeforeValidator(split_list),
        Field(
            validation_alias=AliasChoices("DASHTOP_ALLOWED_HOSTS"),
            description="further names that browsers may reach the server by; clients with a token may use any",
        ),
        Option(flag="--allowed-hosts", metavar="NAMES"),
    ] = ()
    trusted_proxies: Annotated[
        int,
        Field(
            ge=0,
            le=16,
            validation_alias=AliasChoices("DASHTOP_TRUSTED_PROXIES"),
            description="number of reverse proxies in front, whose X-Forwarded-For and X-Forwarded-Proto are trusted",
        ),
        Option(flag="--trusted-proxies", metavar="N"),
    ] = 0
    auth_header: Annotated[
        str | None,
        Field(
            validation_alias=AliasChoices("DASHTOP_AUTH_HEADER"),
            description="header in which a trusted proxy names the user, to show and log; needs --trusted-proxies",
        ),
        Option(flag="--auth-header", metavar="NAME"),
        check_pattern(r"[A-Za-z][A-Za-z0-9-]{0,60}", "must be the name of a header, such as X-Forwarded-User"),
    ] = None
    rate_limit: Annotated[
        str,
        Field(validation_alias=AliasChoices("DASHTOP_RATE_LIMIT"), description="API requests allowed to each client"),
        Option(flag="--rate-limit", metavar="N/second"),
        check_pattern(
            r"[1-9]\d{0,6}/(second|minute|hour)", "must be a number per second, minute or hour, such as 10/second"
        ),
    ] = "10/second"

    data_dir: Annotated[
        Path | None,
        Field(
            validation_alias=AliasChoices("DASHTOP_DATA_DIR"),
            description="folder of the history; without it, dashtop/HOSTNAME in the user's data folder",
        ),
        Option(flag="--data-dir", metavar="FOLDER"),
    ] = None
    persist: Annotated[
        bool,
        Field(
            validation_alias=AliasChoices("DASHTOP_PERSIST"),
            description="keep the history in memory only, as is always done for simulated GPUs",
        ),
        Option(flag="--no-persist", flag_value="false"),
    ] = True
    history_url: Annotated[
        str | None,
        Field(
            repr=False,
            validation_alias=AliasChoices("DASHTOP_HISTORY_URL"),
            description="keep the history in PostgreSQL: postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
        ),
        Option(flag="--history-url", metavar="URL", is_secret=True),
        AfterValidator(validate_database_url),
    ] = None
    notebook_names: Annotated[
        bool,
        Field(
            validation_alias=AliasChoices("DASHTOP_NOTEBOOK_NAMES"),
            description="show and store the name of the Jupyter notebook that a process on a GPU belongs to",
        ),
        Option(flag="--notebook-names", flag_value="true"),
    ] = False
    jupyter: Annotated[
        str | None,
        Field(
            repr=False,
            validation_alias=AliasChoices("DASHTOP_JUPYTER"),
            description="Jupyter server that knows the notebooks of other users' kernels, with ?token=TOKEN; needs"
            " --notebook-names",
        ),
        Option(flag="--jupyter", metavar="URL", is_secret=True),
        check_pattern(
            r"https?://[\w.:\[\]-]+(/[\w.~@%/-]*)?(\?token=[\w.~-]{1,500})?",
            "must be an address such as http://127.0.0.1:8888/?token=TOKEN",
        ),
    ] = None
    keep_days: Annotated[
        int,
        Field(
            ge=1,
            le=3650,
            validation_alias=AliasChoices("DASHTOP_KEEP_DAYS"),
            description="days of history to keep; of these 2 as single samples, 14 as 15 s and 90 as 1 min averages",
        ),
        Option(flag="--keep-days", metavar="DAYS"),
    ] = 730
    keep_mb: Annotated[
        int,
        Field(
            ge=50,
            le=1_000_000,
            validation_alias=AliasChoices("DASHTOP_KEEP_MB"),
            description="maximum size of the history; the oldest single samples are deleted first",
        ),
        Option(flag="--keep-mb", metavar="MB"),
    ] = 4000

    price_kwh: Annotated[
        float | None,
        Field(
            ge=0,
            le=1_000_000,
            validation_alias=AliasChoices("DASHTOP_PRICE_KWH"),
            description="price of a kWh, in any currency: the usage then has costs",
        ),
        Option(flag="--price-kwh", metavar="PRICE"),
    ] = None
    price_gpu_hour: Annotated[
        float | None,
        Field(
            ge=0,
            le=1_000_000,
            validation_alias=AliasChoices("DASHTOP_PRICE_GPU_HOUR"),
            description="price of an hour of a GPU, which users who hold it at the same time share",
        ),
        Option(flag="--price-gpu-hour", metavar="PRICE"),
    ] = None

    fleet_url: Annotated[
        str | None,
        Field(
            repr=False,
            validation_alias=AliasChoices("DASHTOP_FLEET_URL"),
            description="show several machines from Prometheus, Thanos, Mimir or VictoriaMetrics at this address, which"
            " may have a path and USER:PASSWORD@",
        ),
        Option(flag="--fleet-url", metavar="URL", is_secret=True),
        check_pattern(
            r"https?://([^\s/@]+@)?[\w.:\[\]-]+(/[\w.~%/-]*)?",
            "must be the base address of an engine such as http://prometheus:9090 or https://mimir.example/prometheus",
        ),
    ] = None
    fleet_peers: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(read_peers),
        AfterValidator(check_peers),
        Field(
            validation_alias=AliasChoices("DASHTOP_FLEET_PEERS"),
            description=f"show the machines of other dashtops, at most {MAX_PEERS}: gpu1,gpu2:8050,https://gpu3.example,"
            " or @FILE with one a line",
        ),
        Option(flag="--fleet-peers", metavar="ADDRESSES"),
    ] = ()
    fleet_token: Annotated[
        str | None,
        Field(
            repr=False,
            validation_alias=AliasChoices("DASHTOP_FLEET_TOKEN"),
            description="access token of the engine or of the other dashtops",
        ),
        Option(flag="--fleet-token", metavar="TOKEN", is_secret=True),
        check_pattern(r"[\x21-\x7e]{1,4096}", "must have 1 to 4096 visible ASCII characters"),
    ] = None
    fleet_token_file: Annotated[
        Path | None,
        Field(
            validation_alias=AliasChoices("DASHTOP_FLEET_TOKEN_FILE"),
            description="file with that token; --fleet-token comes first",
        ),
        Option(flag="--fleet-token-file", metavar="FILE"),
    ] = None
    fleet_headers: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(split_headers),
        AfterValidator(check_headers),
        Field(
            repr=False,
            validation_alias=AliasChoices("DASHTOP_FLEET_HEADERS"),
            description="headers of requests to the engine, separated by semicolons: X-Scope-OrgID: lab",
        ),
        Option(flag="--fleet-headers", metavar="HEADERS", is_secret=True),
    ] = ()
    fleet_cert: Annotated[
        Path | None,
        Field(
            validation_alias=AliasChoices("DASHTOP_FLEET_CERT"),
            description="PEM file with the client certificate and key for the engine",
        ),
        Option(flag="--fleet-cert", metavar="FILE"),
    ] = None
    fleet_select: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(lambda value: parse_matchers(value) if isinstance(value, str) else value),
        Field(
            validation_alias=AliasChoices("DASHTOP_FLEET_SELECT"),
            description='labels that restrict the fleet, as in PromQL: cluster="lab",job=~"dashtop|dcgm"',
        ),
        Option(flag="--fleet-select", metavar="MATCHERS"),
    ] = ()
    fleet_node_label: Annotated[
        str | None,
        Field(
            validation_alias=AliasChoices("DASHTOP_FLEET_NODE_LABEL"),
            description="label that names the machine; without it node, nodename, Hostname, or the host of instance",
        ),
        Option(flag="--fleet-node-label", metavar="LABEL"),
        check_pattern(r"[a-zA-Z_][a-zA-Z0-9_]*", "must be the name of a label, such as node"),
    ] = None
    fleet_interval: Annotated[
        float | None,
        Field(
            ge=1,
            le=600,
            allow_inf_nan=False,
            validation_alias=AliasChoices("DASHTOP_FLEET_INTERVAL"),
            description="seconds between two readings of the fleet while somebody looks, 1 to 600; without it 15, and"
            " with --fleet-peers 3, or 5 above 10 machines",
        ),
        Option(flag="--fleet-interval", metavar="SECONDS"),
    ] = None

    alerts: Annotated[
        dict[str, RuleOverride],
        NoDecode,
        BeforeValidator(parse_overrides),
        Field(description="changes of alert rules: times, limits, on or off; in the settings file only"),
    ] = {}
    notify: Annotated[
        tuple[Channel, ...],
        Field(description="channels for notices of alerts; in the settings file only"),
    ] = ()

    @field_validator("fleet_peers")
    @classmethod
    def _require_one_source(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value and info.data.get("fleet_url"):
            raise ValueError("cannot be combined with --fleet-url")
        return value

    @field_validator("notify")
    @classmethod
    def _require_different_names(cls, value: tuple[Channel, ...]) -> tuple[Channel, ...]:
        if len({channel.name for channel in value}) < len(value):
            raise ValueError("two channels have the same name")
        return value

    @field_validator("jupyter")
    @classmethod
    def _require_notebook_names(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not info.data.get("notebook_names"):
            raise ValueError("needs --notebook-names")
        return value

    @field_validator("demo_scene")
    @classmethod
    def _require_demo(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not info.data.get("demo"):
            raise ValueError("needs --demo")
        return value

    @field_validator("auth_header")
    @classmethod
    def _require_proxy(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not info.data.get("trusted_proxies"):
            raise ValueError("needs --trusted-proxies: without a proxy in front every client could name any user")
        return value

    @field_validator("embed_token")
    @classmethod
    def _require_other_token(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value == info.data.get("token"):
            raise ValueError("must differ from --token")
        if value is not None and info.data.get("auth") is False:
            raise ValueError("has no effect with --no-auth")
        return value

    @property
    def prices(self) -> Prices:
        """The prices of energy and of GPUs."""
        return Prices(self.price_kwh, self.price_gpu_hour)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - ours ignores variables that are not meant for dashtop
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, the strongest first."""
        environment = _Environment(settings_cls)
        given = {**environment(), **init_settings()}
        path = next((given[name] for name in ("config", "DASHTOP_CONFIG") if name in given), None)
        if path is None:
            default = default_config_file()
            files = [_TomlFile(settings_cls, default)] if _can_use(default) else []
            return (init_settings, environment, *files)
        return init_settings, environment, _TomlFile(settings_cls, Path(str(path)))


def _can_use(file: Path) -> bool:
    """Return whether the default file can be read. One that another user owns is a warning, not the end."""
    try:
        file.open("rb").close()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except OSError as error:
        log.warning("The settings file %s is not used: it cannot be read (%s).", file, error.strerror)
        return False
    return True


def default_config_file() -> Path:
    """Return the file that is read if it exists and no other is named."""
    return user_config_path("dashtop") / CONFIG_FILE


def assets_dir() -> Path:
    """Return the folder of the static files: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).parent
    inside = package / "assets"
    return inside if inside.is_dir() else package.parent.parent / "assets"


def describe_demo(demo: int | Path) -> str:
    """Return what `--demo` shows, in words."""
    return f"{demo} simulated GPUs" if isinstance(demo, int) else f"the recorded GPUs of {demo}"


def options() -> dict[str, Option]:
    """Return the option of each setting that has one, by field name."""
    described = {}
    for name, field in Settings.model_fields.items():
        option = next((item for item in field.metadata if isinstance(item, Option)), None)
        if option is None:
            continue
        aliases = field.validation_alias
        env = tuple(map(str, aliases.choices)) if isinstance(aliases, AliasChoices) else ()
        described[name] = replace(option, help=field.description or "", env=env)
    return described


def load(**given: object) -> Settings:
    """Return the settings with those `given` on top. Raises SettingsError, a sentence that names the setting.

    An environment variable that begins like ours but is none is logged as a warning.
    """
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(_format_error(error.errors()[0])) from error
    _warn_of_unknown_variables()
    if settings.token is None and settings.token_file is not None:
        settings = settings.model_copy(update={"token": _read_token("--token-file", settings.token_file)})
        if settings.token == settings.embed_token:
            raise SettingsError(f"--token-file {settings.token_file}: must differ from --embed-token.")
    if settings.fleet_token is None and settings.fleet_token_file is not None:
        settings = settings.model_copy(update={"fleet_token": _read_fleet_token(settings.fleet_token_file)})
    if settings.action_token is None and settings.action_token_file is not None:
        token = _read_token("--action-token-file", settings.action_token_file)
        settings = settings.model_copy(update={"action_token": token})
    _check_actions(settings)
    return settings


def _read_secret(path: Path, flag: str, max_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            return file.read(max_bytes).decode("ascii", "replace").strip()
    except OSError as error:
        raise SettingsError(f"{flag} {path}: cannot be read ({error.strerror or error}).") from error


def _read_fleet_token(path: Path) -> str:
    token = _read_secret(path, "--fleet-token-file", MAX_FLEET_TOKEN_FILE_BYTES)
    if re.fullmatch(r"[\x21-\x7e]{1,4096}", token) is None:
        raise SettingsError(f"--fleet-token-file {path}: the token must have 1 to 4096 visible ASCII characters.")
    return token


def _read_token(flag: str, path: Path) -> str:
    token = _read_secret(path, flag, MAX_TOKEN_FILE_BYTES)
    if re.fullmatch(CREDENTIAL, token, re.ASCII) is None:
        raise SettingsError(f"{flag} {path}: the token {CREDENTIAL_REQUIREMENT}.")
    return token


def _check_actions(settings: Settings) -> None:
    """Raise SettingsError unless actions on processes are off, or safe with the other settings."""
    if settings.allow_actions is ActionScope.OFF:
        if settings.action_token is not None:
            raise SettingsError("--action-token: has no effect without --allow-actions.")
        return
    option = f"--allow-actions {settings.allow_actions.value}"
    if settings.action_token is None:
        raise SettingsError(f"{option}: needs --action-token, --action-token-file or DASHTOP_ACTION_TOKEN.")
    if settings.action_token in {settings.token, settings.embed_token}:
        raise SettingsError("--action-token: must differ from --token and --embed-token.")
    if not settings.auth:
        raise SettingsError(f"{option}: cannot be used with --no-auth.")
    if settings.demo:
        raise SettingsError(f"{option}: cannot be used with --demo, whose processes do not exist.")
    if not settings.persist:
        raise SettingsError(f"{option}: cannot be used with --no-persist: the audit log needs the data folder.")


class _Environment(EnvSettingsSource):
    """The environment, without variables that are set for something else."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = dict(super()._load_env_vars())
        if (variables.get("DASHTOP_PORT") or "").startswith(("tcp://", "udp://")):
            del variables["DASHTOP_PORT"]  # Kubernetes sets it beside a Service called dashtop
        if not os.environ.get("JUPYTERHUB_SERVICE_NAME"):
            # A hub service is served below its prefix. A user's notebook server has the variable as well, but its own
            # address is not dashtop's.
            variables.pop("JUPYTERHUB_SERVICE_PREFIX", None)
        return variables


class _TomlFile(TomlConfigSettingsSource):
    """A settings file, which must exist and be readable."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path) -> None:
        if not os.access(path, os.F_OK):
            raise SettingsError(f"There is no settings file {path}; name one that exists with --config.")
        try:
            super().__init__(settings_cls, toml_file=path)
        except (ValueError, OSError) as error:
            raise SettingsError(f"The settings file {path} cannot be read: {error}") from error

    def __call__(self) -> dict[str, Any]:
        """Return the settings by field name. Names in the file are fields or options, with dashes or underscores."""
        return dict(_to_field(name, value) for name, value in super().__call__().items())


def _to_field(name: str, value: object) -> tuple[str, object]:
    """Return the field that a name in the file means, and its value: `no-gpu = true` is `gpu = false`."""
    field = name.replace("-", "_")
    if field.startswith("no_") and isinstance(value, bool):
        by_flag = {option.flag: each for each, option in options().items()}
        if (negated := by_flag.get("--" + field.replace("_", "-"))) is not None:
            return negated, not value
    return (field, value) if field in Settings.model_fields else (name, value)


def _warn_of_unknown_variables() -> None:
    known = {name for option in options().values() for name in option.env}
    for name in os.environ:
        if name.startswith("DASHTOP_") and name not in known and not _OTHER_VARIABLES.fullmatch(name):
            close = get_close_matches(name, known, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            log.warning("The environment variable %s is not a setting of dashtop.%s", name[:MAX_QUOTED_LENGTH], hint)


def _format_error(error: ErrorDetails) -> str:
    """Return one sentence: which setting, which value, and what it must be."""
    described = options()
    location = str(error["loc"][0]) if error["loc"] else ""
    if location == "notify":
        return _format_channel_error(error)
    if location == "alerts":
        return f"{error['msg'].removeprefix('Value error, ').rstrip('.')} (in the settings file)."
    option = described.get(location) or next((each for each in described.values() if location in each.env), None)
    if option is None:
        close = get_close_matches(location.replace("-", "_"), described, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return f"There is no setting {location[:MAX_QUOTED_LENGTH]!r}.{hint} The settings are {', '.join(described)}."
    value = "" if option.is_secret else f" {str(error['input'])[:MAX_QUOTED_LENGTH]!r}"
    return f"{option.flag}{value}: {_format_requirement(error, option)} (environment: {', '.join(option.env)})."


def _format_channel_error(error: ErrorDetails) -> str:
    """Return one sentence about an entry of `notify`; it does not repeat values, which can be secrets."""
    place = "".join(f"[{each + 1}]" if isinstance(each, int) else f".{each}" for each in error["loc"][1:])
    return f"notify{place} in the settings file: {error['msg'].removeprefix('Value error, ')}."


def _format_requirement(error: ErrorDetails, option: Option) -> str:
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    field = next(field for name, field in Settings.model_fields.items() if options()[name].flag == option.flag)
    bounds = {name: getattr(item, name) for item in field.metadata for name in ("ge", "le") if hasattr(item, name)}
    if bounds:
        return f"must be a {'whole ' if field.annotation is int else ''}number from {bounds['ge']} to {bounds['le']}"
    if error["type"] == "enum":
        return f"must be {error['ctx']['expected']}"
    return {"bool_parsing": "must be true or false", "bool_type": "must be true or false"}.get(
        error["type"], f"is not valid: {error['msg']}"
    )
