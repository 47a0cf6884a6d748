"""Handle a verified activity: store what it shows of a conversation, then run the command, card action or welcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from botbuilder.core import InvokeResponse, TurnContext
from botbuilder.core.teams import TeamsActivityHandler

from messages.activity.references import ReferenceChange, find_reference_changes, is_update
from messages.activity.verified import VerifiedActivity
from messages.card_actions.dispatch import dispatch_card_action
from messages.commands.dispatch import dispatch_command
from messages.turn_adapter import get_verified_activity, set_verified_activity
from messages.welcome import welcome_members, welcome_person
from shared.concurrency import gather_limited
from shared.queue_messages import RecipientTask, Task
from shared.records import ConversationReference
from shared.remembered import Remembered
from shared.services import Services
from shared.states import ReferenceKind, ReferenceStatus

#: Delay before held deliveries are re-evaluated after a new time zone or an install: it is stored by then, and the
#: welcome is sent.
RECHECK_DELAY_SECONDS = 5
#: Pairs of tenant and serviceUrl that are remembered as stored.
MAX_REMEMBERED_SERVICE_URLS = 1000


class HeraldBot(TeamsActivityHandler):  # type: ignore[misc]
    """Dispatches on the type of an activity. Answers are sent through the queues, except those to a card action."""

    def __init__(self, services: Services) -> None:
        super().__init__()
        self._services = services
        self._stored_service_urls = Remembered(MAX_REMEMBERED_SERVICE_URLS)

    async def on_turn(self, turn_context: TurnContext) -> None:
        verified = get_verified_activity(turn_context)
        changes = find_reference_changes(verified.activity, verified.tenant)
        stored = await gather_limited(changes, lambda change: self._save(verified, change))
        people = {each.id: each for each in stored if each and each.kind is ReferenceKind.USER}
        set_verified_activity(turn_context, replace(verified, people=people))
        await super().on_turn(turn_context)

    async def on_message_activity(self, turn_context: TurnContext) -> None:
        await dispatch_command(self._services, get_verified_activity(turn_context))

    async def on_conversation_update_activity(self, turn_context: TurnContext) -> None:
        """Welcome people. botbuilder's own method would request every new member from Teams."""
        await welcome_members(self._services, get_verified_activity(turn_context))

    async def on_installation_update(self, turn_context: TurnContext) -> None:
        await welcome_members(self._services, get_verified_activity(turn_context))

    async def on_invoke_activity(self, turn_context: TurnContext) -> InvokeResponse:
        status, body = await dispatch_card_action(self._services, get_verified_activity(turn_context))
        return InvokeResponse(status=status, body=body)

    async def _save(self, verified: VerifiedActivity, change: ReferenceChange) -> ConversationReference | None:
        """Store a change; return the reference as it is stored then, None if it was not looked at."""
        service_url = (verified.tenant, verified.activity.service_url)
        is_known = change.kind is ReferenceKind.TENANT and service_url in self._stored_service_urls
        if is_known or change.is_alias:  # the alias of a chat is stored with the row of its person
            return None
        observed = dict(change.observed)
        if change.status is not None and verified.activity.type != "message" and not is_update(verified.activity):
            # Stored even if the status stays the same: an older install or uninstall may still arrive.
            observed["status_at"] = verified.occurred_at.isoformat()

        async def prepare(stored: ConversationReference | None, changed: Mapping[str, str]) -> None:
            if verified.is_personal and (chat := changed.get("conversation_id")):
                await self._services.conversations.put_alias(verified.tenant, chat, change.id)
            if change.kind is ReferenceKind.USER:
                locale = changed.get("locale") or (stored.locale if stored else "")
                await welcome_person(self._services, verified, change.id, stored, locale)
            zone, default = changed.get("time_zone"), self._services.settings.default_time_zone
            # The new zone may move the end of a hold, such as the time of a digest.
            has_new_zone = bool(zone) and zone != ((stored and stored.time_zone) or default)
            if has_new_zone or await self._has_waited(verified.tenant, change, stored):
                task = RecipientTask(verified.tenant, _recipient(change), Task.RECONSIDER)
                await self._services.queues.enqueue_recipient(task, RECHECK_DELAY_SECONDS)

        stored = await self._services.conversations.save(
            verified.tenant,
            change.kind,
            change.id,
            observed,
            at=verified.occurred_at,
            status=change.status,
            create=change.creates_row,
            before_write=prepare,
        )
        if change.kind is ReferenceKind.TENANT:
            self._stored_service_urls.add(service_url)
        return stored

    async def _has_waited(self, tenant: str, change: ReferenceChange, stored: ConversationReference | None) -> bool:
        """Return whether deliveries are held for a person or group chat where the bot was not installed until now."""
        if change.kind is ReferenceKind.TEAM or change.status is not ReferenceStatus.ACTIVE:
            return False
        was_installed = stored and stored.status is ReferenceStatus.ACTIVE and stored.conversation_id
        return not was_installed and bool(await self._services.held_deliveries.list(tenant, _recipient(change), 1))


def _recipient(change: ReferenceChange) -> str:
    """Return the recipient (`Delivery.recipient`) that a row of a person or conversation stands for."""
    return f"{'u' if change.kind is ReferenceKind.USER else 'c'}:{change.id}"
