"""Microsoft's proactive sample on botbuilder with its msal tokens: new credentials fetch one for each message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from unittest.mock import patch

from botframework.connector.auth import MicrosoftAppCredentials, microsoft_app_credentials
from msal import ConfidentialClientApplication

from benchmarks.contenders.sample import create_sender
from benchmarks.contenders.workload import Send, Workload


@asynccontextmanager
async def open_sender(workload: Workload) -> AsyncIterator[Send]:
    def create_credentials() -> MicrosoftAppCredentials:
        credentials = MicrosoftAppCredentials(workload.app_id, workload.secret, workload.tenant)
        credentials.oauth_endpoint = workload.authority
        return credentials

    # msal would ask Microsoft about an authority that is not Microsoft's own.
    without_discovery = partial(ConfidentialClientApplication, instance_discovery=False)
    with patch.object(microsoft_app_credentials, "ConfidentialClientApplication", without_discovery):
        yield create_sender(workload, create_credentials)
