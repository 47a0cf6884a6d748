"""The configuration of the host: host.json, local.settings.json and the environment."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, MutableMapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from local.host.timespan import parse_timespan

#: Options of a storage request without retries (timeouts in seconds): the host has its own backoff, and must stop soon.
SINGLE_ATTEMPT: Mapping[str, Any] = {"retry_total": 0, "connection_timeout": 5, "read_timeout": 10}

_LEVELS = {
    "trace": "DEBUG", "debug": "DEBUG", "information": "INFO", "warning": "WARNING", "error": "ERROR",
    "critical": "CRITICAL", "none": "CRITICAL",
}  # fmt: skip


class StartError(Exception):
    """The host cannot start; the message is one line: what is wrong, and what to do."""


def _to_timespan(value: object) -> object:
    return parse_timespan(value) if isinstance(value, str) else value


def _to_timeout(value: object) -> object:
    return None if value in ("-1", -1) else _to_timespan(value)


def _to_lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _to_level(value: object) -> object:
    return _LEVELS.get(value.lower(), value) if isinstance(value, str) else value


TimeSpan = Annotated[timedelta, BeforeValidator(_to_timespan)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class QueueOptions(_Section):
    """`extensions.queues`: how queue triggers poll, retry and give up (host.json reference of Azure Functions)."""

    batch_size: int = Field(default=16, ge=1, le=32)
    new_batch_threshold: int | None = Field(default=None, ge=0)
    max_polling_interval: TimeSpan | None = Field(default=None, ge=timedelta(milliseconds=100))
    visibility_timeout: TimeSpan = Field(default=timedelta(0), ge=timedelta(0), le=timedelta(days=7))
    max_dequeue_count: int = Field(default=5, ge=1)
    message_encoding: Annotated[Literal["base64", "none"], BeforeValidator(_to_lower)] = "base64"

    @property
    def threshold(self) -> int:
        """The most messages in flight at which the next batch is fetched."""
        return self.batch_size // 2 if self.new_batch_threshold is None else self.new_batch_threshold

    def max_polling_seconds(self, environ: Mapping[str, str]) -> float:
        """Return the longest delay between two polls: of host.json, else 2 s in Development and 60 s elsewhere."""
        if self.max_polling_interval is not None:
            return self.max_polling_interval.total_seconds()
        return 2.0 if environ.get("AZURE_FUNCTIONS_ENVIRONMENT") == "Development" else 60.0


class _Http(_Section):
    route_prefix: str = "api"


class _Extensions(_Section):
    http: _Http = _Http()
    queues: QueueOptions = QueueOptions()


class _LogLevel(_Section):
    default: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_to_level)] = "INFO"


class _Logging(_Section):
    log_level: _LogLevel = _LogLevel()


class HostConfig(_Section):
    """The supported values of host.json, with the defaults of Functions; `function_timeout` None means none."""

    function_timeout: Annotated[timedelta | None, BeforeValidator(_to_timeout)] = Field(
        default=timedelta(minutes=30), gt=timedelta(0)
    )
    logging: _Logging = _Logging()
    extensions: _Extensions = _Extensions()


def load_host_config(folder: Path) -> HostConfig:
    """Return the configuration in `folder`/host.json, or the defaults without the file; raises `StartError`."""
    try:
        return HostConfig.model_validate(_read_json(folder / "host.json"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        raise StartError(f"host.json: {where} cannot be {first['input']!r}: {problem}") from None


def apply_local_settings(folder: Path, environ: MutableMapping[str, str]) -> None:
    """Add `Values` of `folder`/local.settings.json to `environ`; existing variables win. Raises `StartError`.

    Like `func start`, set AZURE_FUNCTIONS_ENVIRONMENT to Development unless it is set.
    """
    settings = _read_json(folder / "local.settings.json")
    values = settings.get("Values", {})
    if settings.get("IsEncrypted") is True:
        raise StartError("local.settings.json is encrypted: run `func settings decrypt` first")
    if not isinstance(values, dict):
        raise StartError("local.settings.json: Values must be an object with strings as values")
    for name, value in values.items():
        if isinstance(value, dict | list):
            raise StartError(f"local.settings.json: {name} must be a string")
        if value not in (None, ""):
            environ.setdefault(name, value if isinstance(value, str) else json.dumps(value))
    environ.setdefault("AZURE_FUNCTIONS_ENVIRONMENT", "Development")


def resolve_names(text: str, environ: Mapping[str, str]) -> str:
    """Return `text` with each `%NAME%` replaced from `environ`; raises `StartError` for a name that is not set."""

    def replacement(match: re.Match[str]) -> str:
        name = match.group(1)
        found = environ.get(name) or environ.get(name.replace(":", "__"))
        if not found:
            raise StartError(f"%{name}% is not set: set {name or 'a name'} in the environment or local.settings.json")
        return found

    return re.sub(r"%([^%]*)%", replacement, text)


def resolve_connection(name: str, environ: Mapping[str, str]) -> str:
    """Return the setting that a binding's `connection` means: `AzureWebJobs<name>` if it exists, else `name`."""
    prefixed = f"AzureWebJobs{name or 'Storage'}"
    known = (prefixed in environ) or any(key.startswith(f"{prefixed}__") for key in environ)
    return prefixed if known or not name else name


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StartError(f"{path.name} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise StartError(f"{path.name} must be a JSON object")
    return found
