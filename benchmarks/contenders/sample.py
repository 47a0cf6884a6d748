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

from benchmarks.contenders.world import CARD_TYPE, Chat, Send, World


class ConstantToken(AppCredentials):  # type: ignore[misc]
    def __init__(self, app_id: str, token: str) -> None:
        super().__init__(app_id)
        self._token = token

    def get_access_token(self, force_refresh: bool = False) -> str:
        return self._token


class Credentials(ServiceClientCredentialsFactory):  # type: ignore[misc]
    """Makes new credentials for each message, as the SDK asks for them."""

    def __init__(self, make: Callable[[], AppCredentials]) -> None:
        self._make = make

    async def is_valid_app_id(self, app_id: str) -> bool:
        return True

    async def is_authentication_disabled(self) -> bool:
        return False

    async def create_credentials(
        self, app_id: str, oauth_scope: str, login_endpoint: str, validate_authority: bool
    ) -> AppCredentials:
        return self._make()


@asynccontextmanager
async def sender(world: World) -> AsyncIterator[Send]:
    yield by(world, lambda: ConstantToken(world.app_id, world.token))


def by(world: World, make: Callable[[], AppCredentials]) -> Send:
    """The sample's way of sending, with the credentials that `make` makes."""
    adapter = CloudAdapter(BotFrameworkAuthenticationFactory.create(credential_factory=Credentials(make)))

    async def tell(context: TurnContext) -> None:
        card = Attachment(content_type=CARD_TYPE, content=world.card)
        await context.send_activity(Activity(type="message", summary=world.summary, attachments=[card]))

    async def send(chat: Chat) -> None:
        reference = ConversationReference(
            channel_id="msteams",
            service_url=world.service_url,
            bot=ChannelAccount(id=f"28:{world.app_id}"),
            user=ChannelAccount(id=chat.user),
            conversation=ConversationAccount(id=chat.conversation, tenant_id=world.tenant),
        )
        await adapter.continue_conversation(reference, tell, world.app_id)

    return send
