"""The storage account of the app: one queue and one table service client from `AzureWebJobsStorage`.

The setting is a connection string, or the identity-based form of Azure Functions
(`AzureWebJobsStorage__accountName`, or `__queueServiceUri` and `__tableServiceUri`, with `__clientId` for a
user-assigned identity): "Develop Azure Functions using identity-based connections", Microsoft Learn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.request import getproxies_environment

from azure.data.tables.aio import TableServiceClient
from azure.storage.queue.aio import QueueServiceClient

from shared.states import SettingsError

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

CONNECTION = "AzureWebJobsStorage"
#: The REST version we speak to queues: the newest that both Azure and Azurite 3.35 know.
QUEUE_API_VERSION = "2025-11-05"
#: The account that every Azurite has, as published in its documentation.
_DEVELOPMENT = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
    "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;"
    "QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1;"
    "TableEndpoint=http://127.0.0.1:10002/devstoreaccount1;"
)


def open_storage(
    environ: Mapping[str, str] | None = None, connection: str = CONNECTION
) -> tuple[QueueServiceClient, TableServiceClient]:
    """The clients, not connected yet; raises `SettingsError` where `connection` is missing or unreadable."""
    values = os.environ if environ is None else environ
    # Else the SDK looks for a proxy and for ~/.netrc before each request, in threads: a tenth of its time.
    proxied = bool(set(getproxies_environment()) - {"no"})
    text = values.get(connection, "")
    if text.strip().rstrip(";").lower() == "usedevelopmentstorage=true":
        text = _DEVELOPMENT
    if text:
        try:
            return (
                QueueServiceClient.from_connection_string(
                    text, api_version=QUEUE_API_VERSION, use_env_settings=proxied
                ),
                TableServiceClient.from_connection_string(text, use_env_settings=proxied),
            )
        except ValueError:
            raise SettingsError(f"{connection} is no connection string of a storage account") from None
    account = values.get(f"{connection}__accountName", "")
    queue_url = values.get(f"{connection}__queueServiceUri") or (
        account and f"https://{account}.queue.core.windows.net"
    )
    table_url = values.get(f"{connection}__tableServiceUri") or (
        account and f"https://{account}.table.core.windows.net"
    )
    if not (queue_url and table_url):
        raise SettingsError(
            f"{connection} is missing: set it to a connection string (UseDevelopmentStorage=true for Azurite), "
            f"or {connection}__accountName to the name of the storage account"
        )
    credential = _identity(values.get(f"{connection}__clientId"))
    return (
        QueueServiceClient(queue_url, credential=credential, api_version=QUEUE_API_VERSION, use_env_settings=proxied),
        TableServiceClient(table_url, credential=credential, use_env_settings=proxied),
    )


def _identity(client_id: str | None) -> AsyncTokenCredential:
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential  # costly: only where used

    return ManagedIdentityCredential(client_id=client_id) if client_id else DefaultAzureCredential()
