"""Send an activity to a recipient's conversation. A person's chat is created if it is missing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from notify.delivery.record import Sending
from notify.policy import Target
from shared.services import Services
from shared.states import Reason, ReferenceKind
from shared.storage.deliveries import CLAIM_SECONDS
from shared.teams.connector import TIMEOUT_SECONDS, Route
from shared.teams.outcome import Outcome, Verdict

#: API host of the GCC cloud, used after Teams answers `InvalidBotApiHost` ("Send proactive messages").
GCC = "https://smba.infra.gcc.teams.microsoft.com/teams"


async def send(
    sending: Sending, target: Target, route: Route, activity: bytes, thread: str = ""
) -> tuple[Outcome, str]:
    """Send an activity to the conversation `thread`, if given and not deleted, or else to the target.

    A person's chat is created if there is none, or if the person deleted it. Returns the outcome, and the conversation.
    """
    services = sending.services
    if thread:
        outcome = await services.connector.send(route, thread, activity)
        if outcome.reason is not Reason.CONVERSATION_GONE:
            return outcome, thread
    if target.conversation:
        outcome = await services.connector.send(route, target.conversation, activity)
        if outcome.reason is Reason.WRONG_CLOUD and route.service_url != GCC:
            return await send(sending, replace(target, service_url=GCC), replace(route, service_url=GCC), activity)
        if outcome.reason is not Reason.CONVERSATION_GONE or target.kind is not ReferenceKind.USER:
            return outcome, target.conversation
    created = await _create_chat(services, route, target)
    if created.verdict is not Verdict.DONE:
        return created, ""
    if services.real_time() - sending.now > timedelta(seconds=CLAIM_SECONDS - TIMEOUT_SECONDS):
        return Outcome(Verdict.RETRY, Reason.UNREACHABLE), ""  # the claim could end before the request does
    return await services.connector.send(route, created.conversation_id, activity), created.conversation_id


async def _create_chat(services: Services, route: Route, target: Target) -> Outcome:
    """Create a person's chat with the bot. Creating it twice yields the same chat."""
    bot = target.bot_id or f"28:{services.settings.app_id}"
    outcome = await services.connector.create_conversation(route, bot, target.id)
    if outcome.verdict is Verdict.UNKNOWN:
        return replace(outcome, verdict=Verdict.RETRY)
    if outcome.verdict is Verdict.DONE and not outcome.conversation_id:  # an answer that is not Teams'
        return Outcome(Verdict.RETRY, Reason.NO_ANSWER)
    return outcome


async def store_chat(services: Services, tenant: str, person: str, conversation: str, service_url: str = "") -> None:
    """Store the reference of a created chat, once a message was sent: Teams also creates chats for unknown ids."""
    now = services.real_time()
    observed = {"conversation_id": conversation, "conversation_type": "personal", "service_url": service_url}
    await services.conversations.save(tenant, ReferenceKind.USER, person, observed, at=now)
    alias = {"user": person, "conversation_type": "personal"}
    await services.conversations.save(tenant, ReferenceKind.CONVERSATION, conversation, alias, at=now)
