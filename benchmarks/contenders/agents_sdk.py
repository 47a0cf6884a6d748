"""The successor of the Bot Framework SDK, microsoft-agents-hosting-core, with a constant token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from microsoft_agents.activity import (  # type: ignore[import-not-found]
    Activity,
    Attachment,
    ChannelAccount,
    ConversationAccount,
    ConversationReference,
)
from microsoft_agents.hosting.core import (  # type: ignore[import-not-found]
    ChannelServiceAdapter,
    RestChannelServiceClientFactory,
    TurnContext,
)

from benchmarks.contenders.world import CARD_TYPE, Chat, Send, World


class ConstantToken:
    """Gives the same token for all; the part of `Connections` that sending asks for."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token_provider(self, *_: Any) -> ConstantToken:
        return self

    async def get_access_token(self, *_: Any, **__: Any) -> str:
        return self._token


@asynccontextmanager
async def sender(world: World) -> AsyncIterator[Send]:
    adapter = ChannelServiceAdapter(RestChannelServiceClientFactory(ConstantToken(world.token)))

    async def tell(context: TurnContext) -> None:
        card = Attachment(content_type=CARD_TYPE, content=world.card)
        await context.send_activity(Activity(type="message", summary=world.summary, attachments=[card]))

    async def send(chat: Chat) -> None:
        reference = ConversationReference(
            channel_id="msteams",
            service_url=world.service_url,
            agent=ChannelAccount(id=f"28:{world.app_id}"),
            user=ChannelAccount(id=chat.user),
            conversation=ConversationAccount(id=chat.conversation, tenant_id=world.tenant),
        )
        await adapter.continue_conversation(world.app_id, reference.get_continuation_activity(), tell)

    yield send
