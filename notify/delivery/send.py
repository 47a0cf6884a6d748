"""Send an activity to a recipient's conversation. A person's chat is created if it is missing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from notify.delivery.record import Sending
from notify.policy import Target
from shared.services import Services
from shared.states import Reason, ReferenceKind
from shared.storage.deliveries import CLAIM_SECONDS
from shared.teams.connector import Route
from shared.teams.exchange import TIMEOUT_SECONDS
from shared.teams.outcome import Outcome, Verdict


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
        if outcome.reason is not Reason.CONVERSATION_GONE or target.kind is not ReferenceKind.USER:
            return outcome, target.conversation
    created = await _create_chat(services, route, target)
    if created.verdict is not Verdict.DONE:
        return created, ""
    if services.real_time() - sending.now > timedelta(seconds=CLAIM_SECONDS - TIMEOUT_SECONDS):
        return Outcome(Verdict.RETRY, Reason.UNREACHABLE), ""  # the claim could end before the request does
    route = replace(route, service_url=created.service_url or route.service_url)
    outcome = await services.connector.send(route, created.conversation_id, activity)
    return replace(outcome, service_url=outcome.service_url or created.service_url), created.conversation_id


async def _create_chat(services: Services, route: Route, target: Target) -> Outcome:
    """Create a person's chat with the bot. Creating it twice yields the same chat."""
    bot = target.bot_id or f"28:{services.settings.app_id}"
    outcome = await services.connector.create_conversation(route, bot, target.id)
    if outcome.verdict is Verdict.UNKNOWN:
        return replace(outcome, verdict=Verdict.RETRY)
    if outcome.verdict is Verdict.DONE and not outcome.conversation_id:  # an answer that is not Teams'
        return Outcome(Verdict.RETRY, Reason.NO_ANSWER)
    return outcome
