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

from benchmarks.contenders.workload import CARD_TYPE, Chat, Send, Workload


class ConstantToken:
    """The part of `Connections` that sending needs; returns the same token for everything."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token_provider(self, *_: Any) -> ConstantToken:
        return self

    async def get_access_token(self, *_: Any, **__: Any) -> str:
        return self._token


@asynccontextmanager
async def open_sender(workload: Workload) -> AsyncIterator[Send]:
    adapter = ChannelServiceAdapter(RestChannelServiceClientFactory(ConstantToken(workload.token)))

    async def send_card(context: TurnContext) -> None:
        card = Attachment(content_type=CARD_TYPE, content=workload.card)
        await context.send_activity(Activity(type="message", summary=workload.summary, attachments=[card]))

    async def send(chat: Chat) -> None:
        reference = ConversationReference(
            channel_id="msteams",
            service_url=workload.service_url,
            agent=ChannelAccount(id=f"28:{workload.app_id}"),
            user=ChannelAccount(id=chat.user),
            conversation=ConversationAccount(id=chat.conversation, tenant_id=workload.tenant),
        )
        await adapter.continue_conversation(workload.app_id, reference.get_continuation_activity(), send_card)

    yield send
