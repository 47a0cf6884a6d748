"""Open the queue and table service clients of the storage account in `AzureWebJobsStorage`.

The setting is a connection string, or the identity-based form of Azure Functions (`AzureWebJobsStorage__accountName`,
or `__queueServiceUri` and `__tableServiceUri`, with `__clientId` for a user-assigned identity): "Develop Azure
Functions using identity-based connections", Microsoft Learn.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.request import getproxies_environment
from xml.sax.saxutils import escape

from azure.data.tables.aio import TableServiceClient
from azure.storage.queue.aio import QueueServiceClient

from shared.states import SettingsError
from shared.storage import requests

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

log = logging.getLogger(__name__)

CONNECTION = "AzureWebJobsStorage"
#: The newest REST version of queues that both Azure and Azurite 3.35 support.
QUEUE_API_VERSION = "2025-11-05"
#: The default account of Azurite, from its documentation.
_DEVELOPMENT_CONNECTION = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
    "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;"
    "QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1;"
    "TableEndpoint=http://127.0.0.1:10002/devstoreaccount1;"
)


class QueueService(QueueServiceClient):
    """The SDK's client, with a request of our own for the most frequent operation."""

    async def put_message(self, queue: str, text: str, delay_seconds: int) -> None:
        """Put a message that never expires on a queue, visible after `delay_seconds`; may put it twice.

        A missing queue raises `ResourceNotFoundError`.
        """
        body = f"<QueueMessage><MessageText>{escape(text)}</MessageText></QueueMessage>"
        answer = await requests.sender_of(self).send(
            "POST",
            f"{queue}/messages",
            {"Accept": "application/xml", "Content-Type": "application/xml"},
            body.encode(),
            query={"visibilitytimeout": str(delay_seconds), "messagettl": "-1"},
            repeatable=True,
        )
        if answer.status != 201:
            raise answer.refusal()


def open_storage(
    environ: Mapping[str, str] | None = None, connection: str = CONNECTION
) -> tuple[QueueService, TableServiceClient]:
    """Return the clients, not connected yet; raise `SettingsError` if the setting is missing or invalid."""
    values = os.environ if environ is None else environ
    # With env settings, aiohttp looks for a proxy and for ~/.netrc in a thread before each request, which takes a tenth
    # of its time.
    proxied = bool(set(getproxies_environment()) - {"no"})
    account = values.get(f"{connection}__accountName", "")
    queue_url = values.get(f"{connection}__queueServiceUri") or (
        account and f"https://{account}.queue.core.windows.net"
    )
    table_url = values.get(f"{connection}__tableServiceUri") or (
        account and f"https://{account}.table.core.windows.net"
    )
    text = values.get(connection, "")
    if text and queue_url and table_url:
        # Azure adds a connection string that the storage account may refuse (azure-functions-host, issue 11796).
        log.warning("%s is ignored: %s__accountName or %s__queueServiceUri is set, too", *[connection] * 3)
        text = ""
    if text.strip().rstrip(";").lower() == "usedevelopmentstorage=true":
        text = _DEVELOPMENT_CONNECTION
    if text:
        try:
            return (
                QueueService.from_connection_string(text, api_version=QUEUE_API_VERSION, use_env_settings=proxied),
                TableServiceClient.from_connection_string(text, use_env_settings=proxied, **requests.TIMEOUTS),
            )
        except ValueError:
            raise SettingsError(f"{connection} is not a connection string of a storage account: correct it") from None
    if not (queue_url and table_url):
        raise SettingsError(
            f"{connection} is missing: set it to a connection string (UseDevelopmentStorage=true for Azurite), "
            f"or {connection}__accountName to the name of the storage account"
        )
    credential = _credential(values.get(f"{connection}__clientId"))
    return (
        QueueService(queue_url, credential=credential, api_version=QUEUE_API_VERSION, use_env_settings=proxied),
        TableServiceClient(table_url, credential=credential, use_env_settings=proxied, **requests.TIMEOUTS),
    )


def _credential(client_id: str | None) -> AsyncTokenCredential:
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential  # a slow import

    return ManagedIdentityCredential(client_id=client_id) if client_id else DefaultAzureCredential()
