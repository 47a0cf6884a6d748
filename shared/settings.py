"""All settings of Herald, typed, and validated once at the start.

Settings are environment variables. Those of the Bot Framework keep their names; Herald's begin with ``HERALD_``.
`load_settings` raises `SettingsError` with one line that names the setting and says what to do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from shared.certificates import read_certificate
from shared.loopback import is_loopback
from shared.preferences.digest_schedule import DigestSchedule
from shared.states import SettingsError
from shared.time.clock import parse_clock
from shared.time.localtime import load_chosen_zone

#: Where Teams publishes the keys that sign its tokens, and their issuer (Bot Connector authentication, "Authenticate
#: requests from the Bot Connector service to your bot").
OPENID_METADATA_URL = "https://login.botframework.com/v1/.well-known/openidconfiguration"
TOKEN_ISSUER = "https://api.botframework.com"  # noqa: S105 (a name, not a secret)
#: The scope of the bot's tokens for Teams, and the authority of a multi-tenant bot.
CONNECTOR_SCOPE = "https://api.botframework.com/.default"
MULTI_TENANT_AUTHORITY = "https://login.microsoftonline.com/botframework.com"
GRAPH_URL = "https://graph.microsoft.com"


_UUID = r"^([0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})?$"


class Settings(BaseModel):
    """The settings; the `alias` of each field is its environment variable.

    `app_id` is empty only in Development, where activities are accepted without a token, but only from loopback.
    Of `app_password`, `app_certificate` (PEM) and `federated_client_id`, an app registration has one, an identity none.
    The rates are requests a second to one tenant, over all instances: `tenant_rate` of the bot, `graph_install_rate`
    of installs through Graph, `graph_check_rate` of reads of where the app is installed. Graph allows 30 and 60.
    `teams_app_id` is the id in the app's manifest; without it, nothing is installed through Graph.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    app_type: Literal["", "SingleTenant", "UserAssignedMSI", "MultiTenant"] = Field("", alias="MicrosoftAppType")
    app_id: str = Field("", alias="MicrosoftAppId")
    app_password: str = Field("", alias="MicrosoftAppPassword", repr=False)
    app_certificate: str = Field("", alias="HERALD_APP_CERTIFICATE", repr=False)
    federated_client_id: str = Field("", alias="HERALD_FEDERATED_CLIENT_ID")
    app_tenant: str = Field("", alias="MicrosoftAppTenantId")
    openid_metadata_url: str = Field(OPENID_METADATA_URL, alias="ToBotFromChannelOpenIdMetadataUrl")
    token_issuer: str = Field(TOKEN_ISSUER, alias="ToBotFromChannelTokenIssuer")
    login_url: str = Field("", alias="ToChannelFromBotLoginUrl")
    oauth_scope: str = Field(CONNECTOR_SCOPE, alias="ToChannelFromBotOAuthScope")

    allowed_tenants: frozenset[str] = Field(frozenset(), alias="HERALD_ALLOWED_TENANTS")
    service_hosts: frozenset[str] = Field(frozenset(), alias="HERALD_SERVICE_HOSTS")
    tenant_rate: int = Field(45, alias="HERALD_TENANT_RATE", ge=1, le=10_000)
    graph_url: str = Field(GRAPH_URL, alias="HERALD_GRAPH_URL")
    teams_app_id: str = Field("", alias="HERALD_TEAMS_APP_ID", pattern=_UUID)
    graph_install_rate: int = Field(27, alias="HERALD_GRAPH_INSTALL_RATE", ge=1, le=10_000)
    graph_check_rate: int = Field(54, alias="HERALD_GRAPH_CHECK_RATE", ge=1, le=10_000)
    table_prefix: str = Field("Herald", alias="HERALD_TABLE_PREFIX", pattern=r"^[A-Za-z][A-Za-z0-9]{0,30}$")
    default_time_zone: str = Field("UTC", alias="HERALD_DEFAULT_TIME_ZONE")
    default_digest: str = Field("daily 09:00", alias="HERALD_DEFAULT_DIGEST")
    late_grace_minutes: int = Field(60, alias="HERALD_LATE_GRACE_MINUTES", ge=1, le=7 * 24 * 60)
    probe_days: int = Field(7, alias="HERALD_PROBE_DAYS", ge=1, le=365)
    hold_days: int = Field(30, alias="HERALD_HOLD_DAYS", ge=1, le=365)
    max_activity_kb: int = Field(80, alias="HERALD_MAX_ACTIVITY_KB", ge=8, le=100)

    clock: str = Field("", alias="HERALD_CLOCK")
    categories_file: str = Field("", alias="HERALD_CATEGORIES_FILE")

    environment: str = Field("", alias="AZURE_FUNCTIONS_ENVIRONMENT")
    site_name: str = Field("", alias="WEBSITE_SITE_NAME")
    container_name: str = Field("", alias="CONTAINER_NAME")

    @field_validator("allowed_tenants", "service_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return frozenset(part.strip().lower() for part in value.split(",") if part.strip())
        return value

    @field_validator("app_certificate")
    @classmethod
    def _certificate_is_readable(cls, value: str) -> str:
        # App settings may have each line break as the two characters \n.
        pem = value.replace("\\n", "\n")
        read_certificate(pem)
        return pem

    @field_validator("default_time_zone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        return load_chosen_zone(value).key

    @field_validator("clock")
    @classmethod
    def _clock_is_valid(cls, value: str) -> str:
        parse_clock(value)
        return value

    @field_validator("default_digest")
    @classmethod
    def _digest_is_valid(cls, value: str) -> str:
        return str(DigestSchedule.parse(value))

    @field_validator("graph_url")
    @classmethod
    def _graph_url_is_a_host(cls, value: str) -> str:
        parts = urlsplit(value)
        host = parts.hostname or ""
        is_clean = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None)
        if not is_clean or not host or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))):
            raise ValueError("is invalid: set it to the URL of Graph's host, such as https://graph.microsoft.us")
        return f"{parts.scheme}://{parts.netloc.lower()}"

    @field_validator("openid_metadata_url", "token_issuer", "oauth_scope", mode="before")
    @classmethod
    def _empty_is_default(cls, value: object, info: object) -> object:
        return value or cls.model_fields[info.field_name].default  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.clock and (self.site_name or self.container_name or self.environment != "Development"):
            raise ValueError("HERALD_CLOCK is allowed only on a developer's machine: remove it")
        if self.graph_url.startswith("http:") and (self.site_name or self.container_name):
            raise ValueError("HERALD_GRAPH_URL is invalid: plain http is allowed only on a developer's machine")
        if not self.app_id:
            if self.site_name or self.container_name or self.environment != "Development":
                hosted = "WEBSITE_SITE_NAME" if self.site_name else "CONTAINER_NAME" if self.container_name else ""
                raise ValueError(
                    "MicrosoftAppId is missing: set it to the bot's app id (it may be missing only on a developer's "
                    "machine, where AZURE_FUNCTIONS_ENVIRONMENT is Development, and neither WEBSITE_SITE_NAME nor "
                    f"CONTAINER_NAME is set{f'; here {hosted} is set' if hosted else ''})"
                )
            return self
        if self.app_type == "SingleTenant" and not self.app_tenant:
            raise ValueError("MicrosoftAppTenantId is missing: set it, MicrosoftAppType SingleTenant requires it")
        self._check_credential()
        if not self.tenants:
            raise ValueError("HERALD_ALLOWED_TENANTS is missing: set it to the ids of the tenants that may use the bot")
        login = urlsplit(self.authority)
        if login.scheme != "https" or not login.path.strip("/"):
            raise ValueError("ToChannelFromBotLoginUrl is invalid: set it to a URL such as https://host/tenant")
        return self

    def _check_credential(self) -> None:
        credentials = {
            "MicrosoftAppPassword": self.app_password,
            "HERALD_APP_CERTIFICATE": self.app_certificate,
            "HERALD_FEDERATED_CLIENT_ID": self.federated_client_id,
        }
        given = [name for name, value in credentials.items() if value]
        app_type = self.effective_app_type
        if app_type == "UserAssignedMSI" and given:
            raise ValueError(f"{given[0]} contradicts MicrosoftAppType UserAssignedMSI: remove one of them")
        if app_type != "UserAssignedMSI" and not given:
            raise ValueError(
                "MicrosoftAppPassword is missing: set it, or HERALD_APP_CERTIFICATE, or HERALD_FEDERATED_CLIENT_ID; "
                f"MicrosoftAppType {app_type} requires one of them"
            )
        if len(given) > 1:
            raise ValueError(f"{given[0]} contradicts {given[1]}: remove one of them")

    @property
    def effective_app_type(self) -> str:
        """The app type; if none is set, SingleTenant for a bot with a tenant, else MultiTenant."""
        return self.app_type or ("SingleTenant" if self.app_tenant else "MultiTenant")

    @property
    def authority(self) -> str:
        """The login authority for the bot's tokens, as `https://host/tenant`."""
        if self.login_url:
            return self.login_url.rstrip("/")
        if self.effective_app_type == "MultiTenant":
            return MULTI_TENANT_AUTHORITY
        return f"https://login.microsoftonline.com/{self.app_tenant}"

    def authority_of(self, tenant: str) -> str:
        """The login authority of another tenant, at the same host."""
        parts = urlsplit(self.authority)
        return f"{parts.scheme}://{parts.netloc}/{tenant}"

    @property
    def probe_after(self) -> timedelta:
        """After how long a request shows whether somebody still blocks the bot."""
        return timedelta(days=self.probe_days)

    @property
    def longest_hold(self) -> timedelta:
        """For how long a notification with `onMissing: hold` waits for an install."""
        return timedelta(days=self.hold_days)

    @property
    def late_grace(self) -> timedelta:
        """How late a scheduled notification is still sent."""
        return timedelta(minutes=self.late_grace_minutes)

    @property
    def max_activity_bytes(self) -> int:
        """The largest activity, in bytes of UTF-16."""
        return self.max_activity_kb * 1024

    @cached_property
    def tenants(self) -> frozenset[str]:
        """The tenants that may use the bot, in lower case; empty only without an app id, when all may."""
        return self.allowed_tenants or (frozenset({self.app_tenant.lower()}) if self.app_tenant else frozenset())

    def allows_tenant(self, tenant: str) -> bool:
        return tenant.lower() in self.tenants if self.tenants else not self.app_id


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings in `environ` (by default the process environment); raise `SettingsError`."""
    values = os.environ if environ is None else environ
    by_name = {str(field.alias).lower(): str(field.alias) for field in Settings.model_fields.values()}
    known = {by_name[name.lower()]: value for name, value in values.items() if name.lower() in by_name and value != ""}
    try:
        return Settings.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{setting}: {message}" if setting else message) from None
