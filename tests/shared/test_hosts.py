from __future__ import annotations

import pytest

from shared.teams.hosts import allowed_service_url

HOSTS = frozenset({"127.0.0.1:3978", "teams.example", "localhost"})


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://smba.trafficmanager.net/amer/", True),
        ("https://smba.trafficmanager.net:443/teams", True),
        ("https://SMBA.trafficmanager.net/emea/", True),
        ("https://smba.infra.gcc.teams.microsoft.com/teams", True),
        ("http://smba.trafficmanager.net/amer/", False),
        ("https://smba.trafficmanager.net:8443/amer/", False),
        ("https://smba.trafficmanager.net.evil.example/", False),
        ("https://evil.example/smba.trafficmanager.net", False),
        ("https://smba.trafficmanager.net@evil.example/", False),
        ("https://user@smba.trafficmanager.net/", False),
        ("https://smba.trafficmanager.net\\@evil.example/", False),
        ("https://smba.trafficmanager.net /", False),
        ("https://smba.trafficmanager.net/?x=1", False),
        ("https://smba.trafficmanager.net/#x", False),
        ("https://smba.trafficmanager.net:port/", False),
        ("ftp://smba.trafficmanager.net/", False),
        ("smba.trafficmanager.net", False),
        ("", False),
        ("https://", False),
        ("https://[::1", False),
        ("http://127.0.0.1:3978/connector", True),
        ("https://127.0.0.1:3978/connector", True),
        ("http://127.0.0.1:3979/connector", False),
        ("http://localhost:9/", True),
        ("https://teams.example:8443/", True),
        ("http://teams.example/", False),
        ("https://sub.teams.example/", False),
    ],
)
def test_service_url_must_be_https_to_teams_or_to_a_configured_host(url: str, allowed: bool) -> None:
    assert allowed_service_url(url, hosts=HOSTS) is allowed


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.1:56150/_connector", True),
        ("http://localhost:1/", True),
        ("http://[::1]:1/", True),
        ("https://smba.trafficmanager.net/amer/", False),
        ("https://teams.example/", False),
    ],
)
def test_without_an_app_id_only_loopback_is_allowed(url: str, allowed: bool) -> None:
    assert allowed_service_url(url, hosts=HOSTS, loopback_only=True) is allowed
