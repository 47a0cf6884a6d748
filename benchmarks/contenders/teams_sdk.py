"""The Teams SDK, microsoft-teams-apps: `App.send`, with a constant token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from microsoft_teams.api import MessageActivityInput  # type: ignore[import-not-found]
from microsoft_teams.apps import App  # type: ignore[import-not-found]
from microsoft_teams.cards import AdaptiveCard  # type: ignore[import-not-found]

from benchmarks.contenders.workload import Chat, Send, Workload


@asynccontextmanager
async def open_sender(workload: Workload) -> AsyncIterator[Send]:
    app = App(
        client_id=workload.app_id,
        tenant_id=workload.tenant,
        token=lambda *_: workload.token,
        service_url=workload.service_url,
    )
    await app.initialize()
    card = AdaptiveCard.model_validate(workload.card)

    async def send(chat: Chat) -> None:
        message = MessageActivityInput(summary=workload.summary).add_card(card)
        await app.send(chat.conversation, message)

    yield send
