"""The bot: store the references that an activity shows, welcome people, and run their commands and clicks."""

from __future__ import annotations

from collections.abc import Mapping

from botbuilder.core import InvokeResponse, TurnContext
from botbuilder.core.teams import TeamsActivityHandler

from messages.activity.references import Change, changes
from messages.activity.verified import Event
from messages.card_actions.dispatch import dispatch_click
from messages.commands.dispatch import dispatch_command
from messages.welcome import welcome_people
from shared.concurrency import gather_limited
from shared.queue_messages import RecipientTask, Task
from shared.records import ConversationReference
from shared.services import Services
from shared.states import ReferenceKind

#: Seconds after which what waits for somebody is decided anew by a new time zone, which is stored by then.
RECHECK_DELAY_SECONDS = 5
#: Tenants and serviceUrls remembered as stored, so that they cost nothing; all are forgotten when there are more.
MAX_REMEMBERED = 1000

#: Where a turn's state holds the `Event`.
EVENT = "herald.event"


class HeraldBot(TeamsActivityHandler):  # type: ignore[misc]
    """Answer people through the queues, as all messages are sent; only a click on a card is answered at once."""

    def __init__(self, services: Services) -> None:
        super().__init__()
        self._services = services
        self._stored: set[tuple[str, str]] = set()

    async def on_turn(self, turn_context: TurnContext) -> None:
        event: Event = turn_context.turn_state[EVENT]
        found = changes(event.incoming, event.tenant)
        await gather_limited(found, lambda change: self._save(event, change))
        await super().on_turn(turn_context)

    async def on_message_activity(self, turn_context: TurnContext) -> None:
        await dispatch_command(self._services, turn_context.turn_state[EVENT])

    async def on_conversation_update_activity(self, turn_context: TurnContext) -> None:
        """No more than a welcome: botbuilder's own would ask Teams about every new member."""
        await welcome_people(self._services, turn_context.turn_state[EVENT])

    async def on_installation_update(self, turn_context: TurnContext) -> None:
        await welcome_people(self._services, turn_context.turn_state[EVENT])

    async def on_invoke_activity(self, turn_context: TurnContext) -> InvokeResponse:
        status, body = await dispatch_click(self._services, turn_context.turn_state[EVENT])
        return InvokeResponse(status=status, body=body)

    async def _save(self, event: Event, change: Change) -> None:
        stored = (event.tenant, event.incoming.service_url)
        if change.kind is ReferenceKind.TENANT and stored in self._stored:
            return
        seen = dict(change.seen)
        if change.status is not None and event.incoming.type != "message":
            # The time of an install or uninstall counts also where it changes nothing: an older one may come later.
            seen["status_at"] = event.at.isoformat()

        async def reevaluate(known: ConversationReference | None, changed: Mapping[str, str]) -> None:
            place, default = changed.get("time_zone"), self._services.settings.default_time_zone
            if place and place != ((known and known.time_zone) or default):
                # Deliveries held for the person's own time, such as a digest, go by the new zone.
                await self._services.queues.enqueue_recipient(
                    RecipientTask(event.tenant, f"u:{change.id}", Task.RECONSIDER), RECHECK_DELAY_SECONDS
                )

        await self._services.conversations.save(
            event.tenant,
            change.kind,
            change.id,
            seen,
            at=event.at,
            status=change.status,
            create=change.create,
            before_write=reevaluate,
        )
        if change.kind is ReferenceKind.TENANT:
            if len(self._stored) >= MAX_REMEMBERED:
                self._stored.clear()
            self._stored.add(stored)
