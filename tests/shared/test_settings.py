"""A missing or contradictory setting stops the start with one line that names it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from collections.abc import Callable

import pytest
from azure.core.exceptions import HttpResponseError

from shared.certificates import read_certificate
from shared.queues import Queues
from shared.settings import Settings, load_settings
from shared.states import SettingsError
from shared.storage.clients import open_storage
from shared.storage.table import Conflict, Table
from tests.support.certificates import create_certificate, encrypt

TENANT = "11111111-1111-1111-1111-111111111111"
BOT = {
    "MicrosoftAppType": "SingleTenant",
    "MicrosoftAppId": "22222222-2222-2222-2222-222222222222",
    "MicrosoftAppPassword": "a-secret",
    "MicrosoftAppTenantId": TENANT,
}


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in BOT.items() if key != name}


FEDERATED = without("MicrosoftAppPassword") | {"HERALD_FEDERATED_CLIENT_ID": "33333333-3333-3333-3333-333333333333"}


def test_single_tenant_bot_allows_only_its_own_tenant() -> None:
    settings = load_settings(BOT)
    assert settings.allows_tenant(TENANT.upper())
    assert not settings.allows_tenant("33333333-3333-3333-3333-333333333333")
    assert settings.authority == f"https://login.microsoftonline.com/{TENANT}"


def test_graph_is_that_of_the_cloud_and_another_tenant_has_its_authority_at_the_same_host() -> None:
    assert load_settings(BOT).graph_url == "https://graph.microsoft.com"
    government = {
        "ToChannelFromBotLoginUrl": "https://login.microsoftonline.us/home",
        "HERALD_GRAPH_URL": "https://Graph.Microsoft.us/",
    }
    settings = load_settings(BOT | government)
    assert settings.graph_url == "https://graph.microsoft.us"
    assert settings.authority_of("other") == "https://login.microsoftonline.us/other"
    assert load_settings(BOT | {"HERALD_GRAPH_URL": "http://127.0.0.1:5"}).graph_url == "http://127.0.0.1:5"


def test_allowed_tenants_replace_the_tenant_of_the_bot() -> None:
    settings = load_settings(BOT | {"HERALD_ALLOWED_TENANTS": " A , b,"})
    assert settings.tenants == {"a", "b"}


def test_names_of_settings_are_case_insensitive() -> None:
    assert load_settings({name.upper(): value for name, value in BOT.items()}) == load_settings(BOT)


def test_empty_value_counts_as_missing() -> None:
    assert load_settings(BOT | {"ToBotFromChannelTokenIssuer": "", "HERALD_TENANT_RATE": ""}) == load_settings(BOT)


@pytest.mark.parametrize(
    ("environ", "setting"),
    [
        ({}, "MicrosoftAppId"),
        (without("MicrosoftAppId"), "MicrosoftAppId"),
        ({"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "WEBSITE_SITE_NAME": "herald"}, "MicrosoftAppId"),
        ({"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "CONTAINER_NAME": "herald"}, "MicrosoftAppId"),
        (without("MicrosoftAppPassword"), "MicrosoftAppPassword is missing"),
        (without("MicrosoftAppTenantId"), "MicrosoftAppTenantId"),
        (BOT | {"MicrosoftAppType": "UserAssignedMSI"}, "MicrosoftAppPassword contradicts"),
        (FEDERATED | {"MicrosoftAppType": "UserAssignedMSI"}, "HERALD_FEDERATED_CLIENT_ID contradicts"),
        (BOT | FEDERATED, "MicrosoftAppPassword contradicts HERALD_FEDERATED_CLIENT_ID"),
        (BOT | {"MicrosoftAppType": "Unknown"}, "MicrosoftAppType"),
        (without("MicrosoftAppTenantId") | {"MicrosoftAppType": "MultiTenant"}, "HERALD_ALLOWED_TENANTS"),
        (BOT | {"ToChannelFromBotLoginUrl": "http://127.0.0.1/tenant"}, "ToChannelFromBotLoginUrl"),
        (BOT | {"ToChannelFromBotLoginUrl": "https://127.0.0.1"}, "ToChannelFromBotLoginUrl"),
        (BOT | {"HERALD_TENANT_RATE": "0"}, "HERALD_TENANT_RATE"),
        (BOT | {"HERALD_TENANT_RATE": "many"}, "HERALD_TENANT_RATE"),
        (BOT | {"HERALD_GRAPH_URL": "graph.microsoft.com"}, "HERALD_GRAPH_URL"),
        (BOT | {"HERALD_GRAPH_URL": "http://graph.microsoft.com"}, "HERALD_GRAPH_URL"),
        (BOT | {"HERALD_GRAPH_URL": "https://graph.microsoft.com/v1.0"}, "HERALD_GRAPH_URL"),
        (BOT | {"HERALD_GRAPH_URL": "https://a@graph.microsoft.com"}, "HERALD_GRAPH_URL"),
        (BOT | {"HERALD_GRAPH_URL": "http://127.0.0.1:5", "WEBSITE_SITE_NAME": "herald"}, "HERALD_GRAPH_URL"),
        (BOT | {"HERALD_GRAPH_URL": "http://127.0.0.1:5", "CONTAINER_NAME": "herald"}, "HERALD_GRAPH_URL"),
        (BOT | {"HERALD_TEAMS_APP_ID": "herald' or 1 eq 1"}, "HERALD_TEAMS_APP_ID"),
        (BOT | {"HERALD_GRAPH_INSTALL_RATE": "0"}, "HERALD_GRAPH_INSTALL_RATE"),
        (BOT | {"HERALD_GRAPH_CHECK_RATE": "0"}, "HERALD_GRAPH_CHECK_RATE"),
        (BOT | {"HERALD_TABLE_PREFIX": "no-dashes"}, "HERALD_TABLE_PREFIX"),
        (BOT | {"HERALD_DEFAULT_TIME_ZONE": "Mars/Olympus"}, "HERALD_DEFAULT_TIME_ZONE"),
        (BOT | {"HERALD_MAX_ACTIVITY_KB": "1000"}, "HERALD_MAX_ACTIVITY_KB"),
    ],
)
def test_invalid_setting_is_refused_with_one_line_that_names_it(environ: dict[str, str], setting: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(environ)
    text = str(refused.value)
    assert setting in text
    assert "\n" not in text
    assert "a-secret" not in text


def _bot_with(pem: str) -> dict[str, str]:
    return without("MicrosoftAppPassword") | {"HERALD_APP_CERTIFICATE": pem}


@pytest.mark.parametrize(
    "write",
    [
        lambda key, certificate: key + certificate,
        lambda key, certificate: certificate + key,
        lambda key, certificate: create_certificate(number=2)[1] + certificate + key,
        lambda key, certificate: (key + certificate).replace("\n", "\\n"),
        lambda key, certificate: (key + certificate).replace("\n", "\r\n"),
    ],
    ids=["key first", "certificate first", "chain", "two characters for a line break", "CRLF"],
)
def test_certificate_is_read_with_its_key_in_any_order(write: Callable[[str, str], str]) -> None:
    """The platform."""
    key, certificate = create_certificate()
    settings = load_settings(_bot_with(write(key, certificate)))
    _, own = read_certificate(settings.app_certificate)
    assert own.serial_number == 1
    assert "PRIVATE KEY" not in repr(settings)


@pytest.mark.parametrize(
    "write",
    [
        lambda _: "nonsense",
        lambda rsa: rsa[0],
        lambda rsa: rsa[1],
        lambda rsa: rsa[0] + create_certificate(number=2)[1],
        lambda rsa: encrypt(rsa[0]) + rsa[1],
        lambda rsa: rsa[0][:200] + rsa[1],
        lambda _: "".join(create_certificate("ec")),
    ],
    ids=["no PEM", "key only", "certificate only", "of another key", "passphrase", "cut off", "elliptic curve"],
)
def test_certificate_that_cannot_be_used_is_refused_and_not_shown(write: Callable[[tuple[str, str]], str]) -> None:
    pem = write(create_certificate())
    with pytest.raises(SettingsError, match=r"^HERALD_APP_CERTIFICATE: cannot be read: set it to [^\n]+$") as refused:
        load_settings(_bot_with(pem))
    shown = "".join(traceback.format_exception(refused.value))
    assert not [line for line in pem.splitlines() if line in shown]


def test_key_vault_reference_that_azure_left_in_place_is_named() -> None:
    """The platform."""
    with pytest.raises(SettingsError, match="HERALD_APP_CERTIFICATE: is a Key Vault reference"):
        load_settings(_bot_with("@Microsoft.KeyVault(SecretUri=https://vault.example/secrets/herald)"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"MicrosoftAppType": "UserAssignedMSI"}, "HERALD_APP_CERTIFICATE contradicts MicrosoftAppType"),
        ({"MicrosoftAppPassword": "x"}, "MicrosoftAppPassword contradicts HERALD_APP_CERTIFICATE"),
        ({"HERALD_FEDERATED_CLIENT_ID": "x"}, "HERALD_APP_CERTIFICATE contradicts HERALD_FEDERATED_CLIENT_ID"),
    ],
)
def test_certificate_is_the_only_credential(more: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(_bot_with("".join(create_certificate())) | more)


def test_start_without_a_certificate_imports_no_cryptography() -> None:
    code = (
        "import sys; from shared.settings import load_settings; import shared.teams.tokens; "
        f"load_settings({BOT!r}); assert not {{'cryptography', 'msal', 'requests'}} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_development_without_an_app_id_allows_any_tenant_unless_some_are_listed() -> None:
    unlimited = load_settings({"AZURE_FUNCTIONS_ENVIRONMENT": "Development"})
    assert unlimited.allows_tenant(TENANT)
    limited = load_settings({"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "HERALD_ALLOWED_TENANTS": TENANT})
    assert not limited.allows_tenant("another")


def test_secret_is_not_in_the_repr_of_the_settings() -> None:
    assert "a-secret" not in repr(load_settings(BOT))


def test_every_setting_has_an_environment_variable() -> None:
    assert all(field.alias for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("environ", "message"),
    [({}, "AzureWebJobsStorage is missing"), ({"AzureWebJobsStorage": "nonsense"}, "is not a connection string")],
)
def test_invalid_storage_setting_is_refused_with_the_reason(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        open_storage(environ)


async def test_storage_is_opened_with_an_account_name_and_an_identity() -> None:
    queues, tables = open_storage({"AzureWebJobsStorage__accountName": "heraldstore"})
    async with queues, tables:
        assert queues.url.startswith("https://heraldstore.queue.core.windows.net")
        assert tables.url.startswith("https://heraldstore.table.core.windows.net")


async def test_storage_uses_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    requested = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requested.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].split()[1].decode())
        writer.write(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        account = "AccountName=account0;AccountKey=a2V5;QueueEndpoint=http://q.test;TableEndpoint=http://t.test"
        queues, tables = open_storage({"AzureWebJobsStorage": f"DefaultEndpointsProtocol=http;{account}"})
        async with queues, tables:
            for client in (
                queues.get_queue_client("notifications").get_queue_properties(),
                tables.get_table_client("HeraldTimers").get_entity("p", "r"),
                Queues(queues).put("recipients", "x"),
                Table(tables.get_table_client("HeraldMarkers")).insert({"PartitionKey": "p", "RowKey": "r"}),
            ):
                with pytest.raises((HttpResponseError, Conflict)):
                    await client
    assert [url.split("?")[0].split("(")[0] for url in requested] == [
        "http://q.test/notifications",
        "http://t.test/HeraldTimers",
        "http://q.test/recipients/messages",
        "http://t.test/HeraldMarkers",
    ]
