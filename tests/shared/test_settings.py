"""Every setting that is missing or contradicts another stops the start with one line that names it."""

from __future__ import annotations

import asyncio

import pytest
from azure.core.exceptions import HttpResponseError

from shared.settings import Settings, load_settings
from shared.states import SettingsError
from shared.storage.clients import open_storage

TENANT = "11111111-1111-1111-1111-111111111111"
BOT = {
    "MicrosoftAppType": "SingleTenant",
    "MicrosoftAppId": "22222222-2222-2222-2222-222222222222",
    "MicrosoftAppPassword": "a-secret",
    "MicrosoftAppTenantId": TENANT,
}


def test_a_single_tenant_bot_is_open_to_its_own_tenant_alone() -> None:
    settings = load_settings(BOT)
    assert settings.allows_tenant(TENANT.upper())
    assert not settings.allows_tenant("33333333-3333-3333-3333-333333333333")
    assert settings.authority == f"https://login.microsoftonline.com/{TENANT}"


def test_named_tenants_take_the_place_of_the_bots_own() -> None:
    settings = load_settings(BOT | {"HERALD_ALLOWED_TENANTS": " A , b,"})
    assert settings.tenants == {"a", "b"}


def test_names_are_found_in_any_case_as_on_windows() -> None:
    assert load_settings({name.upper(): value for name, value in BOT.items()}) == load_settings(BOT)


def test_an_empty_value_is_a_missing_one() -> None:
    assert load_settings(BOT | {"ToBotFromChannelTokenIssuer": "", "HERALD_TENANT_RATE": ""}) == load_settings(BOT)


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in BOT.items() if key != name}


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, "MicrosoftAppId"),
        (without("MicrosoftAppId"), "MicrosoftAppId"),
        ({"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "WEBSITE_SITE_NAME": "herald"}, "MicrosoftAppId"),
        ({"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "CONTAINER_NAME": "herald"}, "MicrosoftAppId"),
        (without("MicrosoftAppPassword"), "MicrosoftAppPassword"),
        (without("MicrosoftAppTenantId"), "MicrosoftAppTenantId"),
        (BOT | {"MicrosoftAppType": "UserAssignedMSI"}, "MicrosoftAppPassword"),
        (BOT | {"MicrosoftAppType": "Unknown"}, "MicrosoftAppType"),
        (without("MicrosoftAppTenantId") | {"MicrosoftAppType": "MultiTenant"}, "HERALD_ALLOWED_TENANTS"),
        (BOT | {"ToChannelFromBotLoginUrl": "http://127.0.0.1/tenant"}, "ToChannelFromBotLoginUrl"),
        (BOT | {"ToChannelFromBotLoginUrl": "https://127.0.0.1"}, "ToChannelFromBotLoginUrl"),
        (BOT | {"HERALD_TENANT_RATE": "0"}, "HERALD_TENANT_RATE"),
        (BOT | {"HERALD_TENANT_RATE": "many"}, "HERALD_TENANT_RATE"),
        (BOT | {"HERALD_TABLE_PREFIX": "no-dashes"}, "HERALD_TABLE_PREFIX"),
        (BOT | {"HERALD_DEFAULT_TIME_ZONE": "Mars/Olympus"}, "HERALD_DEFAULT_TIME_ZONE"),
        (BOT | {"HERALD_MAX_ACTIVITY_KB": "1000"}, "HERALD_MAX_ACTIVITY_KB"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line_that_names_it(environ: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(environ)
    text = str(refused.value)
    assert named in text
    assert "\n" not in text
    assert "a-secret" not in text


def test_without_an_app_id_development_takes_any_tenant_unless_some_are_named() -> None:
    free = load_settings({"AZURE_FUNCTIONS_ENVIRONMENT": "Development"})
    assert free.allows_tenant(TENANT)
    named = load_settings({"AZURE_FUNCTIONS_ENVIRONMENT": "Development", "HERALD_ALLOWED_TENANTS": TENANT})
    assert not named.allows_tenant("another")


def test_the_secret_is_not_in_the_settings_printed() -> None:
    assert "a-secret" not in repr(load_settings(BOT))


def test_every_setting_has_a_name_in_the_environment() -> None:
    assert all(field.alias for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("environ", "told"),
    [({}, "AzureWebJobsStorage is missing"), ({"AzureWebJobsStorage": "nonsense"}, "is no connection string")],
)
def test_storage_that_cannot_be_opened_says_why(environ: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        open_storage(environ)


async def test_storage_is_opened_by_account_name_with_an_identity() -> None:
    queues, tables = open_storage({"AzureWebJobsStorage__accountName": "heraldstore"})
    async with queues, tables:
        assert queues.url.startswith("https://heraldstore.queue.core.windows.net")
        assert tables.url.startswith("https://heraldstore.table.core.windows.net")


async def test_storage_is_reached_through_the_proxy_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].split()[1].decode())
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
            ):
                with pytest.raises(HttpResponseError):
                    await client
    assert [url.split("?")[0].split("(")[0] for url in asked] == [
        "http://q.test/notifications",
        "http://t.test/HeraldTimers",
    ]
