"""What the host is told from outside: host.json, local.settings.json and the environment."""

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

#: One try at a storage operation, in seconds: the host has its own backoff, and a stop must not wait for long.
ONCE: Mapping[str, Any] = {"retry_total": 0, "connection_timeout": 5, "read_timeout": 10}

_LEVELS = {
    "trace": "DEBUG", "debug": "DEBUG", "information": "INFO", "warning": "WARNING", "error": "ERROR",
    "critical": "CRITICAL", "none": "CRITICAL",
}  # fmt: skip


class StartError(Exception):
    """The host cannot start; the text is one line that says what is wrong and what to do."""


def _timespan(value: object) -> object:
    return parse_timespan(value) if isinstance(value, str) else value


def _limit(value: object) -> object:
    return None if value in ("-1", -1) else _timespan(value)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _level(value: object) -> object:
    return _LEVELS.get(value.lower(), value) if isinstance(value, str) else value


TimeSpan = Annotated[timedelta, BeforeValidator(_timespan)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class QueueOptions(_Section):
    """`extensions.queues`: how every queue trigger polls, retries and gives up (host.json reference, Functions)."""

    batch_size: int = Field(default=16, ge=1, le=32)
    new_batch_threshold: int | None = Field(default=None, ge=0)
    max_polling_interval: TimeSpan | None = Field(default=None, ge=timedelta(milliseconds=100))
    visibility_timeout: TimeSpan = Field(default=timedelta(0), ge=timedelta(0), le=timedelta(days=7))
    max_dequeue_count: int = Field(default=5, ge=1)
    message_encoding: Annotated[Literal["base64", "none"], BeforeValidator(_lower)] = "base64"

    @property
    def threshold(self) -> int:
        """Fetch again once this many messages or fewer are in flight."""
        return self.batch_size // 2 if self.new_batch_threshold is None else self.new_batch_threshold

    def polling_limit(self, environ: Mapping[str, str]) -> float:
        """The longest wait between two polls, in seconds; short in Development unless host.json says otherwise."""
        if self.max_polling_interval is not None:
            return self.max_polling_interval.total_seconds()
        return 2.0 if environ.get("AZURE_FUNCTIONS_ENVIRONMENT") == "Development" else 60.0


class _Http(_Section):
    route_prefix: str = "api"


class _Extensions(_Section):
    http: _Http = _Http()
    queues: QueueOptions = QueueOptions()


class _LogLevel(_Section):
    default: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_level)] = "INFO"


class _Logging(_Section):
    log_level: _LogLevel = _LogLevel()


class HostConfig(_Section):
    """The values of host.json that the host follows, with the defaults of Functions; no timeout is None."""

    function_timeout: Annotated[timedelta | None, BeforeValidator(_limit)] = Field(
        default=timedelta(minutes=30), gt=timedelta(0)
    )
    logging: _Logging = _Logging()
    extensions: _Extensions = _Extensions()


def load_host_config(folder: Path) -> HostConfig:
    """The configuration in `folder`/host.json, or the defaults where there is none; raises `StartError`."""
    try:
        return HostConfig.model_validate(_read_json(folder / "host.json"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise StartError(f"host.json: {where} cannot be {first['input']!r}: {said}") from None


def apply_local_settings(folder: Path, environ: MutableMapping[str, str]) -> None:
    """Adds `Values` of `folder`/local.settings.json to `environ`, which wins; raises `StartError`.

    As `func start`, it also makes the environment Development unless it says what it is.
    """
    settings = _read_json(folder / "local.settings.json")
    values = settings.get("Values", {})
    if settings.get("IsEncrypted") is True:
        raise StartError("local.settings.json is encrypted: run `func settings decrypt` first")
    if not isinstance(values, dict):
        raise StartError("local.settings.json: Values must be an object of names and texts")
    for name, value in values.items():
        if isinstance(value, dict | list):
            raise StartError(f"local.settings.json: {name} must be a text")
        if value not in (None, ""):
            environ.setdefault(name, value if isinstance(value, str) else json.dumps(value))
    environ.setdefault("AZURE_FUNCTIONS_ENVIRONMENT", "Development")


def resolve_names(text: str, environ: Mapping[str, str]) -> str:
    """`text` with each `%NAME%` replaced from `environ`; raises `StartError` that names a missing one."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        found = environ.get(name) or environ.get(name.replace(":", "__"))
        if not found:
            raise StartError(f"%{name}% is not set: set {name or 'a name'} in the environment or local.settings.json")
        return found

    return re.sub(r"%([^%]*)%", value, text)


def resolve_connection(name: str, environ: Mapping[str, str]) -> str:
    """The setting that a binding's `connection` means: `AzureWebJobs<name>` where it exists, else `name`."""
    prefixed = f"AzureWebJobs{name or 'Storage'}"
    known = (prefixed in environ) or any(key.startswith(f"{prefixed}__") for key in environ)
    return prefixed if known or not name else name


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StartError(f"{path.name} is unreadable: {error}") from None
    if not isinstance(found, dict):
        raise StartError(f"{path.name} must be a JSON object")
    return found
