"""Admit a request to `/api/messages` step by step, then let the bot handle its activity.

The order of the checks follows their cost and what a caller may learn from them: size, token, body, serviceUrl,
channel, tenant, host. Nothing is stored before all of them have passed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime

import orjson
from azure.core.exceptions import AzureError
from botbuilder.schema import Activity
from pydantic import ValidationError

from messages.activity.references import event_time
from messages.activity.schema import Incoming
from messages.activity.verified import Event
from messages.auth.admission import ActivityRefused, is_local_caller, tenant_of
from messages.auth.signing_keys import KeysUnavailable, SigningKeys
from messages.auth.token_verifier import TokenRefused, Verifier
from messages.bot import EVENT, HeraldBot
from messages.http_answer import Answer, refusal
from messages.turn_adapter import NotAnActivity, TurnAdapter, read_activity
from shared.services import Services
from shared.settings import Settings
from shared.storage.table import Conflict

#: Largest body that is looked at, in bytes.
MAX_BODY_BYTES = 256 * 1024
#: Seconds an activity may take: Teams repeats it when the answer takes longer than 15 s, or less.
DEADLINE_SECONDS = 8

log = logging.getLogger(__name__)


class Endpoint:
    """`verifier` is None where the bot has no app id: then only this machine may call."""

    def __init__(
        self, settings: Settings, verifier: Verifier | None, bot: HeraldBot, clock: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._verifier = verifier
        self._bot = bot
        self._clock = clock
        self._adapter = TurnAdapter()

    async def receive(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Handle one request, header names in lower case; never raises for what a caller sent or storage refused."""
        try:
            if len(body) > MAX_BODY_BYTES:
                raise ActivityRefused(413, "the body is too large")
            issued_for = await self._caller(headers)
            activity, incoming = _read(body)
            tenant = tenant_of(incoming, self._settings, issued_for)
            event = Event(incoming, tenant, event_time(incoming, self._clock()))
            async with asyncio.timeout(DEADLINE_SECONDS):
                response = await self._adapter.process(activity, self._bot, {EVENT: event})
        except ActivityRefused as refused:
            log.info("An activity was refused with %d: %s", refused.status, refused.detail)
            return refusal(refused.status, refused.reason)
        except NotAnActivity:
            log.info("An activity was refused with 400: the body is no activity")
            return refusal(400, "the body is no activity")
        except (AzureError, Conflict, TimeoutError) as error:
            log.error("An activity could not be stored, Teams is told to repeat it: %s", type(error).__name__)
            return refusal(503, "the activity could not be stored")
        if response is None:
            return Answer(200)
        return Answer(int(response.status), b"" if response.body is None else orjson.dumps(response.body))

    async def _caller(self, headers: Mapping[str, str]) -> str | None:
        """Return the serviceUrl of the caller's token, None where no token is needed; raises `ActivityRefused`."""
        if self._verifier is None:
            if not is_local_caller(headers):
                raise ActivityRefused(401, "without an app id, only this machine may call")
            return None
        try:
            return await self._verifier.service_url(headers.get("authorization", ""))
        except TokenRefused as refused:
            reason = "the token does not show that Microsoft Teams is calling"
            raise ActivityRefused(401, reason, detail=str(refused)) from None
        except KeysUnavailable:
            raise ActivityRefused(503, "tokens cannot be verified at the moment") from None


def open_endpoint(services: Services) -> Endpoint:
    """The endpoint as the settings want it."""
    settings, verifier = services.settings, None
    if settings.app_id:
        keys = SigningKeys(settings.openid_metadata_url, services.http, services.real_time)
        verifier = Verifier(keys, issuer=settings.token_issuer, app_id=settings.app_id)
    return Endpoint(settings, verifier, HeraldBot(services), services.real_time)


def _read(body: bytes) -> tuple[Activity, Incoming]:
    try:
        decoded = orjson.loads(body)
        incoming = Incoming.model_validate(decoded)
        return read_activity(decoded), incoming
    except (orjson.JSONDecodeError, ValidationError):
        raise NotAnActivity from None
