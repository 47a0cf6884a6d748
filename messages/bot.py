"""Handle a verified activity: store what it shows of a conversation, then run the command, card action or welcome."""

from __future__ import annotations

from collections.abc import Mapping

from botbuilder.core import InvokeResponse, TurnContext
from botbuilder.core.teams import TeamsActivityHandler

from messages.activity.references import ReferenceChange, find_reference_changes
from messages.activity.verified import VerifiedActivity
from messages.card_actions.dispatch import dispatch_card_action
from messages.commands.dispatch import dispatch_command
from messages.turn_adapter import get_verified_activity
from messages.welcome import welcome_people
from shared.concurrency import gather_limited
from shared.queue_messages import RecipientTask, Task
from shared.records import ConversationReference
from shared.services import Services
from shared.states import ReferenceKind, ReferenceStatus

#: Delay before held deliveries are re-evaluated after a new time zone or an install: it is stored by then, and the
#: welcome is sent.
RECHECK_DELAY_SECONDS = 5
#: Pairs of tenant and serviceUrl that are remembered as stored. When there are more, all are forgotten.
MAX_REMEMBERED_SERVICE_URLS = 1000


class HeraldBot(TeamsActivityHandler):  # type: ignore[misc]
    """Dispatches on the type of an activity. Answers are sent through the queues, except those to a card action."""

    def __init__(self, services: Services) -> None:
        super().__init__()
        self._services = services
        self._stored_service_urls: set[tuple[str, str]] = set()

    async def on_turn(self, turn_context: TurnContext) -> None:
        verified = get_verified_activity(turn_context)
        changes = find_reference_changes(verified.activity, verified.tenant)
        await gather_limited(changes, lambda change: self._save(verified, change))
        await super().on_turn(turn_context)

    async def on_message_activity(self, turn_context: TurnContext) -> None:
        await dispatch_command(self._services, get_verified_activity(turn_context))

    async def on_conversation_update_activity(self, turn_context: TurnContext) -> None:
        """Welcome people. botbuilder's own method would request every new member from Teams."""
        await welcome_people(self._services, get_verified_activity(turn_context))

    async def on_installation_update(self, turn_context: TurnContext) -> None:
        await welcome_people(self._services, get_verified_activity(turn_context))

    async def on_invoke_activity(self, turn_context: TurnContext) -> InvokeResponse:
        status, body = await dispatch_card_action(self._services, get_verified_activity(turn_context))
        return InvokeResponse(status=status, body=body)

    async def _save(self, verified: VerifiedActivity, change: ReferenceChange) -> None:
        service_url = (verified.tenant, verified.activity.service_url)
        if change.kind is ReferenceKind.TENANT and service_url in self._stored_service_urls:
            return
        observed = dict(change.observed)
        if change.status is not None and verified.activity.type != "message":
            # Stored even if the status stays the same: an older install or uninstall may still arrive.
            observed["status_at"] = verified.occurred_at.isoformat()

        async def reevaluate(stored: ConversationReference | None, changed: Mapping[str, str]) -> None:
            zone, default = changed.get("time_zone"), self._services.settings.default_time_zone
            # The new zone may move the end of a hold, such as the time of a digest.
            has_new_zone = bool(zone) and zone != ((stored and stored.time_zone) or default)
            if has_new_zone or await self._has_waited(verified.tenant, change, stored):
                task = RecipientTask(verified.tenant, _recipient(change), Task.RECONSIDER)
                await self._services.queues.enqueue_recipient(task, RECHECK_DELAY_SECONDS)

        await self._services.conversations.save(
            verified.tenant,
            change.kind,
            change.id,
            observed,
            at=verified.occurred_at,
            status=change.status,
            create=change.creates_row,
            before_write=reevaluate,
        )
        if change.kind is ReferenceKind.TENANT:
            if len(self._stored_service_urls) >= MAX_REMEMBERED_SERVICE_URLS:
                self._stored_service_urls.clear()
            self._stored_service_urls.add(service_url)

    async def _has_waited(self, tenant: str, change: ReferenceChange, stored: ConversationReference | None) -> bool:
        """Return whether deliveries are held for a person or group chat where the bot was not installed until now."""
        if change.kind is ReferenceKind.TEAM or change.status is not ReferenceStatus.ACTIVE:
            return False
        was_installed = stored and stored.status is ReferenceStatus.ACTIVE and stored.conversation_id
        return not was_installed and bool(await self._services.held_deliveries.list(tenant, _recipient(change), 1))


def _recipient(change: ReferenceChange) -> str:
    """Return the recipient (`Delivery.recipient`) that a row of a person or conversation stands for."""
    return f"{'u' if change.kind is ReferenceKind.USER else 'c'}:{change.id}"
