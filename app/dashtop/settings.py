"""Every setting, each one field of one typed class: command line > environment > TOML file > default."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from dashtop.history.postgresql_url import validate_database_url
from dashtop.model.errors import SettingsError

DEFAULT_DEMO_GPUS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """How a setting is spoken of outside: its flag, its environment variables (first set wins) and its help."""

    flag: str
    env: tuple[str, ...]
    help: str
    metavar: str | None = None
    stored: str | None = None
    """What the bare flag stands for; None: the flag takes a value."""
    optional_value: bool = False
    secret: bool = False
    """A value that is refused is not repeated."""


def _between_slashes(value: object) -> object:
    return f"/{unquote(value).strip('/')}/".replace("//", "/") if isinstance(value, str) else value


def _words(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


class Settings(BaseSettings):
    """The settings of one dashtop. Raises SettingsError (through `load`) for an unknown or impossible value."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True)

    config: Annotated[
        Path | None,
        Option(flag="--config", env=("DASHTOP_CONFIG",), metavar="FILE", help="TOML file with settings"),
    ] = None
    host: Annotated[
        str,
        Option(flag="--host", env=("DASHTOP_HOST",), metavar="ADDRESS", help="address to listen on"),
        Field(min_length=1),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Option(
            flag="--port",
            env=("DASHTOP_PORT", "PORT"),
            metavar="PORT",
            help="port to listen on; 0 takes a free one and prints it",
        ),
        Field(ge=0, le=65535),
    ] = 8050
    interval: Annotated[
        float,
        Option(
            flag="--interval",
            env=("DASHTOP_INTERVAL", "GPU_POLL_INTERVAL"),
            metavar="SECONDS",
            help="time between two collections, 0.5 to 60",
        ),
        Field(ge=0.5, le=60, allow_inf_nan=False),
    ] = 1.0
    gpu: Annotated[
        bool,
        Option(flag="--no-gpu", env=("ENABLE_GPU_MONITORING",), stored="false", help="disable GPU monitoring"),
    ] = True
    demo: Annotated[
        int,
        Option(
            flag="--demo",
            env=("DASHTOP_DEMO",),
            metavar="N",
            stored=str(DEFAULT_DEMO_GPUS),
            optional_value=True,
            help=f"show N simulated GPUs (default {DEFAULT_DEMO_GPUS}), marked as simulated",
        ),
        Field(ge=0, le=64),
    ] = 0

    url_prefix: Annotated[
        str,
        Option(
            flag="--url-prefix",
            env=("DASHTOP_URL_PREFIX", "JUPYTERHUB_SERVICE_PREFIX"),
            metavar="PATH",
            help="path that every address begins with, behind a proxy",
        ),
        BeforeValidator(_between_slashes),
        Field(pattern=r"^/([\w.~@+-]+/)*$"),
    ] = "/"
    token: Annotated[
        str | None,
        Option(
            flag="--token",
            env=("DASHTOP_TOKEN",),
            metavar="TOKEN",
            help="access token; generated and printed if other machines can connect",
            secret=True,
        ),
        Field(min_length=8, pattern=r"^[\w.~+/=-]+$", repr=False),
    ] = None
    auth: Annotated[
        bool,
        Option(flag="--no-auth", env=("DASHTOP_AUTH",), stored="false", help="disable authentication"),
    ] = True
    frame_ancestors: Annotated[
        tuple[Annotated[str, Field(pattern=r"^('self'|'none'|https?://[\w.*:\[\]-]+)$")], ...],
        Option(
            flag="--frame-ancestors",
            env=("DASHTOP_FRAME_ANCESTORS",),
            metavar="ORIGINS",
            help="origins that may embed the pages, such as https://portal.example",
        ),
        BeforeValidator(_words),
        Field(min_length=1),
    ] = ("'self'",)
    allowed_hosts: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[\w.:-]+$")], ...],
        Option(
            flag="--allowed-hosts",
            env=("DASHTOP_ALLOWED_HOSTS",),
            metavar="NAMES",
            help="names the server may be called by, beside loopback and its own host name",
        ),
        BeforeValidator(_words),
    ] = ()
    trusted_proxies: Annotated[
        int,
        Option(
            flag="--trusted-proxies",
            env=("DASHTOP_TRUSTED_PROXIES",),
            metavar="N",
            help="number of proxies in front whose forwarded headers count",
        ),
        Field(ge=0, le=16),
    ] = 0
    rate_limit: Annotated[
        str,
        Option(
            flag="--rate-limit",
            env=("DASHTOP_RATE_LIMIT",),
            metavar="N/second",
            help="API requests that one client may make",
        ),
        Field(pattern=r"^[1-9]\d{0,6}/(second|minute|hour)$"),
    ] = "10/second"

    data_dir: Annotated[
        Path | None,
        Option(
            flag="--data-dir",
            env=("DASHTOP_DATA_DIR",),
            metavar="FOLDER",
            help="folder of the history (default: dashtop in the user's data folder)",
        ),
    ] = None
    persist: Annotated[
        bool,
        Option(
            flag="--no-persist",
            env=("DASHTOP_PERSIST",),
            stored="false",
            help="keep the history in memory only; simulated GPUs' is never kept elsewhere",
        ),
    ] = True
    history_url: Annotated[
        str | None,
        Option(
            flag="--history-url",
            env=("DASHTOP_HISTORY_URL",),
            metavar="URL",
            secret=True,
            help="keep the history in PostgreSQL: postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
        ),
        AfterValidator(validate_database_url),
        Field(repr=False),
    ] = None
    keep_days: Annotated[
        int,
        Option(
            flag="--keep-days",
            env=("DASHTOP_KEEP_DAYS",),
            metavar="DAYS",
            help="how many days of running it goes back: single readings 2, means of 15 s 14, of 1 min 90 days at most",
        ),
        Field(ge=1, le=3650),
    ] = 730
    keep_mb: Annotated[
        int,
        Option(
            flag="--keep-mb",
            env=("DASHTOP_KEEP_MB",),
            metavar="MB",
            help="how large the history may grow; then the oldest single readings go first",
        ),
        Field(ge=50, le=1_000_000),
    ] = 4000

    @field_validator("port", mode="before")
    @classmethod
    def _without_service_link(cls, value: object) -> object:
        # Kubernetes sets DASHTOP_PORT=tcp://… in every pod beside a Service called dashtop: not meant for us.
        if isinstance(value, str) and value.startswith(("tcp://", "udp://")):
            return cls.model_fields["port"].default
        return value

    @field_validator("demo", mode="before")
    @classmethod
    def _switch(cls, value: object) -> object:
        words = {"true": DEFAULT_DEMO_GPUS, "on": DEFAULT_DEMO_GPUS, "yes": DEFAULT_DEMO_GPUS}
        words |= dict.fromkeys(("false", "off", "no"), 0)
        return words.get(value.lower(), value) if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - our own source knows the documented names
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the sources in their order; see the module."""
        environment = _Environment(settings_cls)
        given = {**environment(), **init_settings()}
        if "config" not in given:
            return init_settings, environment
        return init_settings, environment, _TomlFile(settings_cls, Path(str(given["config"])))


def options() -> dict[str, Option]:
    """Return how each setting is spoken of outside, by field name."""
    return {
        name: next(item for item in field.metadata if isinstance(item, Option))
        for name, field in Settings.model_fields.items()
    }


class _Environment(PydanticBaseSettingsSource):
    """The documented environment variables; one that is set but empty counts as not set."""

    def get_field_value(self, field: object, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        names = options()[field_name].env
        value = next((os.environ[name] for name in names if os.environ.get(name)), None)
        return value, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(None, name)[0] for name in self.settings_cls.model_fields}
        return {name: value for name, value in found.items() if value is not None}


class _TomlFile(TomlConfigSettingsSource):
    """A settings file that must be there and be readable."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path) -> None:
        if not path.is_file():
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


def load(**given: object) -> Settings:
    """Return the settings with those `given` on top. Raises SettingsError, a sentence that names the setting."""
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from error


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    option = options().get(name)
    if option is None:
        known = ", ".join(sorted(options()))
        return f"There is no setting {name!r}; the settings are {known}."
    message = first["msg"].removeprefix("Value error, ")
    given = "" if option.secret else f", not {str(first['input'])[:80]!r}"
    return f"{' or '.join((option.flag, *option.env))}: {message[0].lower()}{message[1:]}{given}."
