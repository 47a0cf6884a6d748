"""Decide, on plain values, which activities with a valid token are admitted to `/api/messages`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from messages.activity.schema import Incoming
from shared.settings import Settings
from shared.teams.hosts import allowed_service_url, is_loopback

CHANNEL = "msteams"
_TENANT = re.compile(r"[a-z0-9.-]{1,100}")
_ADDRESSES = ("x-forwarded-for", "x-forwarded-host", "x-client-ip", "x-real-ip")


class ActivityRefused(Exception):
    """The request is refused with this HTTP status, for a reason that the caller may read; the log tells `detail`."""

    def __init__(self, status: int, reason: str, *, detail: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.detail = detail or reason


def tenant_of(incoming: Incoming, settings: Settings, issued_for: str | None) -> str:
    """The tenant (lower case) of an activity that is to be handled; raises `ActivityRefused`.

    `issued_for` is the serviceUrl in the caller's token, None where no token is needed: then only loopback
    serviceUrls are taken.
    """
    if issued_for is not None and (not issued_for or issued_for != incoming.service_url):
        raise ActivityRefused(401, "the token was not issued for this serviceUrl")
    if incoming.channel_id != CHANNEL:
        raise ActivityRefused(403, "only Microsoft Teams may call")
    tenants = incoming.tenants
    tenant = min(tenants, default="")
    if len(tenants) != 1 or not _TENANT.fullmatch(tenant) or not settings.allows_tenant(tenant):
        raise ActivityRefused(403, "this tenant is not allowed")
    if not allowed_service_url(incoming.service_url, hosts=settings.service_hosts, loopback_only=issued_for is None):
        raise ActivityRefused(403, "this serviceUrl is not allowed")
    return tenant


def is_local_caller(headers: Mapping[str, str]) -> bool:
    """Whether nothing in a request (header names in lower case) says that it came from another machine.

    The function host does not tell the caller's address. Hosts of a developer's machine listen on loopback alone;
    so what can come from elsewhere came through a proxy, a tunnel or a web page, and these leave their traces.
    """
    if "forwarded" in headers or any(name.startswith("x-arr-") for name in headers):
        return False
    named = [headers.get("host", "")]
    if "origin" in headers:
        named.append(headers["origin"].partition("://")[2])
    for name in _ADDRESSES:
        named += headers.get(name, "localhost").split(",")
    return all(is_loopback(_host(address)) for address in named)


def _host(address: str) -> str:
    """The host of `host`, `host:port`, `[v6]:port` or a bare IPv6 address."""
    address = address.strip().lower()
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
