"""Decide to which serviceUrl the bot's token may be sent.

The hosts of Teams are those of "Send proactive messages" (Microsoft Learn), one for each Microsoft cloud.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from urllib.parse import urlsplit

from shared.loopback import is_loopback

TEAMS_HOSTS = frozenset(
    {
        "smba.trafficmanager.net",
        "smba.infra.gcc.teams.microsoft.com",
        "smba.infra.gov.teams.microsoft.us",
        "smba.infra.dod.teams.microsoft.us",
    }
)

#: Where the bot reaches people of a tenant from which no activity has come yet, by the host of Graph in each cloud.
DEFAULT_SERVICE_URLS: Mapping[str, str] = {
    "https://graph.microsoft.com": "https://smba.trafficmanager.net/teams",
    "https://graph.microsoft.us": "https://smba.infra.gov.teams.microsoft.us/teams",
    "https://dod-graph.microsoft.us": "https://smba.infra.dod.teams.microsoft.us/teams",
}


def is_same_service_url(one: str, other: str) -> bool:
    """Return whether two serviceUrls differ at most by a slash at the end and the case of scheme and host."""
    return _normalize(one) == _normalize(other)


def _normalize(url: str) -> tuple[str, str]:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}".lower(), (slash + path).removesuffix("/")


def allowed_service_url(url: str, *, hosts: Set[str], loopback_only: bool = False) -> bool:
    """Return whether `url` is https to a host of Teams or to one of `hosts` (`host` or `host:port`).

    Plain http is allowed only to loopback. With `loopback_only` (without an app id) only loopback is allowed, on any
    port.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    clean = url.isascii() and url.isprintable() and not set(url) & set(' \\"<>^`{|}')
    if not clean or parts.username is not None or parts.query or parts.fragment or not host:
        return False
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        return False
    if loopback_only:
        return is_loopback(host)
    if host in TEAMS_HOSTS:
        return parts.scheme == "https" and port in (None, 443)
    named = f"[{host}]" if ":" in host else host
    effective = port or (443 if parts.scheme == "https" else 80)
    return bool({host, named, f"{named}:{effective}"} & hosts)
