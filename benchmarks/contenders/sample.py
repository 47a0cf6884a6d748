"""Microsoft's proactive sample on botbuilder: `CloudAdapter.continue_conversation`, with a constant token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from botbuilder.core import TurnContext
from botbuilder.integration.aiohttp import CloudAdapter
from botbuilder.schema import Activity, Attachment, ChannelAccount, ConversationAccount, ConversationReference
from botframework.connector.auth import (
    AppCredentials,
    BotFrameworkAuthenticationFactory,
    ServiceClientCredentialsFactory,
)

from benchmarks.contenders.workload import CARD_TYPE, Chat, Send, Workload


class ConstantToken(AppCredentials):  # type: ignore[misc]
    def __init__(self, app_id: str, token: str) -> None:
        super().__init__(app_id)
        self._token = token

    def get_access_token(self, force_refresh: bool = False) -> str:
        return self._token


class Credentials(ServiceClientCredentialsFactory):  # type: ignore[misc]
    """Creates new credentials whenever the SDK asks for them, which is for each message."""

    def __init__(self, create: Callable[[], AppCredentials]) -> None:
        self._create = create

    async def is_valid_app_id(self, app_id: str) -> bool:
        return True

    async def is_authentication_disabled(self) -> bool:
        return False

    async def create_credentials(
        self, app_id: str, oauth_scope: str, login_endpoint: str, validate_authority: bool
    ) -> AppCredentials:
        return self._create()


@asynccontextmanager
async def open_sender(workload: Workload) -> AsyncIterator[Send]:
    yield create_sender(workload, lambda: ConstantToken(workload.app_id, workload.token))


def create_sender(workload: Workload, create_credentials: Callable[[], AppCredentials]) -> Send:
    """Return a function that sends as the sample does, with credentials from `create_credentials`."""
    adapter = CloudAdapter(BotFrameworkAuthenticationFactory.create(credential_factory=Credentials(create_credentials)))

    async def send_card(context: TurnContext) -> None:
        card = Attachment(content_type=CARD_TYPE, content=workload.card)
        await context.send_activity(Activity(type="message", summary=workload.summary, attachments=[card]))

    async def send(chat: Chat) -> None:
        reference = ConversationReference(
            channel_id="msteams",
            service_url=workload.service_url,
            bot=ChannelAccount(id=f"28:{workload.app_id}"),
            user=ChannelAccount(id=chat.user),
            conversation=ConversationAccount(id=chat.conversation, tenant_id=workload.tenant),
        )
        await adapter.continue_conversation(reference, send_card, workload.app_id)

    return send
