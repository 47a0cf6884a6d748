"""Every setting of Herald, typed, and validated once at the start.

Names are those of the environment. The Bot Framework's own names are kept where they exist; Herald's begin with
``HERALD_``. `load_settings` raises `SettingsError` with one line that names the setting and says what to do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from shared.preferences.digest_schedule import DigestSchedule
from shared.states import SettingsError
from shared.time.clock import parse_clock
from shared.time.localtime import load_zone

#: Where Teams publishes the keys that sign its tokens, and the issuer it names in them (Bot Connector
#: authentication, "Authenticate requests from the Bot Connector service to your bot").
OPENID_METADATA_URL = "https://login.botframework.com/v1/.well-known/openidconfiguration"
TOKEN_ISSUER = "https://api.botframework.com"  # noqa: S105 (a name, not a secret)
#: The scope of the tokens that we show to Teams, and the authority of a bot that still is multi-tenant.
CONNECTOR_SCOPE = "https://api.botframework.com/.default"
MULTI_TENANT_AUTHORITY = "https://login.microsoftonline.com/botframework.com"


class Settings(BaseModel):
    """The settings, by the names of the environment in `validation_alias`.

    `app_id` is empty only in Development, where activities are taken without a token from loopback alone.
    `tenant_rate` is requests a second, over all instances, for one tenant.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    app_type: Literal["", "SingleTenant", "UserAssignedMSI", "MultiTenant"] = Field("", alias="MicrosoftAppType")
    app_id: str = Field("", alias="MicrosoftAppId")
    app_password: str = Field("", alias="MicrosoftAppPassword", repr=False)
    app_tenant: str = Field("", alias="MicrosoftAppTenantId")
    openid_metadata_url: str = Field(OPENID_METADATA_URL, alias="ToBotFromChannelOpenIdMetadataUrl")
    token_issuer: str = Field(TOKEN_ISSUER, alias="ToBotFromChannelTokenIssuer")
    login_url: str = Field("", alias="ToChannelFromBotLoginUrl")
    oauth_scope: str = Field(CONNECTOR_SCOPE, alias="ToChannelFromBotOAuthScope")

    allowed_tenants: frozenset[str] = Field(frozenset(), alias="HERALD_ALLOWED_TENANTS")
    service_hosts: frozenset[str] = Field(frozenset(), alias="HERALD_SERVICE_HOSTS")
    tenant_rate: int = Field(45, alias="HERALD_TENANT_RATE", ge=1, le=10_000)
    table_prefix: str = Field("Herald", alias="HERALD_TABLE_PREFIX", pattern=r"^[A-Za-z][A-Za-z0-9]{0,30}$")
    default_time_zone: str = Field("UTC", alias="HERALD_DEFAULT_TIME_ZONE")
    default_digest: str = Field("daily 09:00", alias="HERALD_DEFAULT_DIGEST")
    late_grace_minutes: int = Field(60, alias="HERALD_LATE_GRACE_MINUTES", ge=1, le=7 * 24 * 60)
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

    @field_validator("default_time_zone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        return load_zone(value).key

    @field_validator("clock")
    @classmethod
    def _clock_goes(cls, value: str) -> str:
        parse_clock(value)
        return value

    @field_validator("default_digest")
    @classmethod
    def _digest_exists(cls, value: str) -> str:
        return str(DigestSchedule.parse(value))

    @field_validator("openid_metadata_url", "token_issuer", "oauth_scope", mode="before")
    @classmethod
    def _empty_is_default(cls, value: object, info: object) -> object:
        return value or cls.model_fields[info.field_name].default  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.clock and (self.site_name or self.container_name or self.environment != "Development"):
            raise ValueError("HERALD_CLOCK moves the time on a developer's machine only: remove it")
        if not self.app_id:
            if self.site_name or self.container_name or self.environment != "Development":
                hosted = "WEBSITE_SITE_NAME" if self.site_name else "CONTAINER_NAME" if self.container_name else ""
                raise ValueError(
                    "MicrosoftAppId is missing: set it to the bot's app id (running without one is possible only on a "
                    "developer's machine: AZURE_FUNCTIONS_ENVIRONMENT is Development, and neither WEBSITE_SITE_NAME "
                    f"nor CONTAINER_NAME is set{f'; {hosted} is' if hosted else ''})"
                )
            return self
        if self.app_type == "SingleTenant" and not self.app_tenant:
            raise ValueError("MicrosoftAppTenantId is missing: MicrosoftAppType SingleTenant needs it")
        if self.kind == "UserAssignedMSI" and self.app_password:
            raise ValueError("MicrosoftAppPassword contradicts MicrosoftAppType UserAssignedMSI: remove one of them")
        if self.kind != "UserAssignedMSI" and not self.app_password:
            raise ValueError(f"MicrosoftAppPassword is missing: MicrosoftAppType {self.kind} needs it")
        if not self.tenants:
            raise ValueError("HERALD_ALLOWED_TENANTS is missing: name the tenant ids that may use this bot")
        login = urlsplit(self.authority)
        if login.scheme != "https" or not login.path.strip("/"):
            raise ValueError("ToChannelFromBotLoginUrl must be https://host/tenant")
        return self

    @property
    def kind(self) -> str:
        """The app type; where none is set, SingleTenant for a bot with a tenant, else MultiTenant."""
        return self.app_type or ("SingleTenant" if self.app_tenant else "MultiTenant")

    @property
    def authority(self) -> str:
        """The login authority for our own tokens, as `https://host/tenant`."""
        if self.login_url:
            return self.login_url.rstrip("/")
        if self.kind == "MultiTenant":
            return MULTI_TENANT_AUTHORITY
        return f"https://login.microsoftonline.com/{self.app_tenant}"

    @property
    def late_grace(self) -> timedelta:
        """By how much what was scheduled may be late and is still sent."""
        return timedelta(minutes=self.late_grace_minutes)

    @property
    def max_activity_bytes(self) -> int:
        """How large an activity may be, in UTF-16."""
        return self.max_activity_kb * 1024

    @cached_property
    def tenants(self) -> frozenset[str]:
        """The tenants that may talk to the bot, in lower case; empty only without an app id: then any may."""
        return self.allowed_tenants or (frozenset({self.app_tenant.lower()}) if self.app_tenant else frozenset())

    def allows_tenant(self, tenant: str) -> bool:
        return tenant.lower() in self.tenants if self.tenants else not self.app_id


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of `environ` (the process's own by default); raises `SettingsError`."""
    values = os.environ if environ is None else environ
    by_name = {str(field.alias).lower(): str(field.alias) for field in Settings.model_fields.values()}
    known = {by_name[name.lower()]: value for name, value in values.items() if name.lower() in by_name and value != ""}
    try:
        return Settings.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{where}: {said}" if where else said) from None
