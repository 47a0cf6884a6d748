"""The Teams SDK, microsoft-teams-apps: `App.send`, with a constant token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from microsoft_teams.api import MessageActivityInput  # type: ignore[import-not-found]
from microsoft_teams.apps import App  # type: ignore[import-not-found]
from microsoft_teams.cards import AdaptiveCard  # type: ignore[import-not-found]

from benchmarks.contenders.world import Chat, Send, World


@asynccontextmanager
async def sender(world: World) -> AsyncIterator[Send]:
    app = App(
        client_id=world.app_id,
        tenant_id=world.tenant,
        token=lambda *_: world.token,
        service_url=world.service_url,
    )
    await app.initialize()
    card = AdaptiveCard.model_validate(world.card)

    async def send(chat: Chat) -> None:
        message = MessageActivityInput(summary=world.summary).add_card(card)
        await app.send(chat.conversation, message)

    yield send
