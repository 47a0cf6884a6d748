"""Decide which activities with a valid token are admitted to `/api/messages`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from messages.activity.schema import TEAMS_CHANNEL_ID, Activity
from shared.loopback import is_loopback
from shared.settings import Settings
from shared.teams.hosts import allowed_service_url, is_same_service_url

_TENANT = re.compile(r"[a-z0-9.-]{1,100}")
_ADDRESS_HEADERS = ("x-forwarded-for", "x-forwarded-host", "x-client-ip", "x-real-ip")


class ActivityRefused(Exception):
    """The request is refused with this HTTP status. `reason` is for the caller, `detail` for the log."""

    def __init__(self, status: int, reason: str, *, detail: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.detail = detail or reason


def admit_activity(activity: Activity, settings: Settings, token_service_url: str | None) -> str:
    """Return the tenant (lower case) of an activity that may be handled; raises `ActivityRefused`.

    `token_service_url` is the serviceUrl in the caller's token, or None if no token is needed: then the activity must
    have a serviceUrl on loopback.
    """
    if token_service_url is not None and not (
        token_service_url and is_same_service_url(token_service_url, activity.service_url)
    ):
        raise ActivityRefused(401, "the token was not issued for this serviceUrl")
    if activity.channel_id != TEAMS_CHANNEL_ID:
        raise ActivityRefused(403, "only Microsoft Teams may call")
    tenant = activity.tenant_id
    if not _TENANT.fullmatch(tenant) or not settings.allows_tenant(tenant):
        raise ActivityRefused(403, "this tenant is not allowed")
    local_only = token_service_url is None
    if not allowed_service_url(activity.service_url, hosts=settings.service_hosts, loopback_only=local_only):
        raise ActivityRefused(403, "this serviceUrl is not allowed")
    return tenant


def is_local_caller(headers: Mapping[str, str]) -> bool:
    """Return whether no header (names in lower case) shows that the request came from another machine.

    The Functions host does not pass on the caller's address. On a developer's machine it listens on loopback only, so
    that a request from elsewhere comes through a proxy, a tunnel or a web page, and each of these adds headers.
    """
    if "forwarded" in headers or any(name.startswith("x-arr-") for name in headers):
        return False
    addresses = [headers.get("host", "")]
    if "origin" in headers:
        addresses.append(headers["origin"].partition("://")[2])
    for name in _ADDRESS_HEADERS:
        addresses += headers.get(name, "localhost").split(",")
    return all(is_loopback(_extract_host(address)) for address in addresses)


def _extract_host(address: str) -> str:
    """Return the host of `host`, `host:port`, `[v6]:port` or a bare IPv6 address."""
    address = address.strip().lower()
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
