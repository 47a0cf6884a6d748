"""The same with tokens by msal, as the sample has them: for each message from new credentials."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from unittest.mock import patch

from botframework.connector.auth import MicrosoftAppCredentials, microsoft_app_credentials
from msal import ConfidentialClientApplication

from benchmarks.contenders.sample import by
from benchmarks.contenders.world import Send, World


@asynccontextmanager
async def sender(world: World) -> AsyncIterator[Send]:
    def make() -> MicrosoftAppCredentials:
        made = MicrosoftAppCredentials(world.app_id, world.secret, world.tenant)
        made.oauth_endpoint = world.authority
        return made

    # Not for a host that is not Microsoft's: msal would ask Microsoft's own about it.
    without_discovery = partial(ConfidentialClientApplication, instance_discovery=False)
    with patch.object(microsoft_app_credentials, "ConfidentialClientApplication", without_discovery):
        yield by(world, make)
