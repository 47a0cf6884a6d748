"""Admit a request to `/api/messages`, then let the bot handle its activity.

The order of the checks follows their cost, and what a caller may learn from them: size, token, body, serviceUrl,
channel, tenant, host. Nothing is stored before all of them have passed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson
from azure.core.exceptions import AzureError

from messages.activity.references import get_occurrence_time
from messages.activity.schema import Activity
from messages.activity.verified import VerifiedActivity
from messages.auth.admission import ActivityRefused, admit_activity, is_local_caller
from messages.auth.signing_keys import KeysUnavailable, SigningKeys
from messages.auth.token_verifier import TokenRefused, TokenVerifier
from messages.bot import HeraldBot
from messages.http_answer import HttpAnswer, build_error
from messages.turn_adapter import TurnAdapter
from shared.services import Services
from shared.settings import Settings
from shared.storage.table import Conflict

#: Largest body that is read, in bytes.
MAX_BODY_BYTES = 256 * 1024
#: Longest time that an activity may take. Teams repeats an activity that is not answered within about 15 seconds.
ACTIVITY_TIMEOUT_SECONDS = 8

log = logging.getLogger(__name__)


class Endpoint:
    """`verifier` is None if the bot has no app id: then only callers on this machine are admitted."""

    def __init__(
        self, settings: Settings, verifier: TokenVerifier | None, bot: HeraldBot, clock: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._verifier = verifier
        self._bot = bot
        self._clock = clock
        self._adapter = TurnAdapter()

    async def receive(self, headers: Mapping[str, str], body: bytes) -> HttpAnswer:
        """Answer one request, whose header names are in lower case. Bad input or failing storage raises nothing."""
        try:
            if len(body) > MAX_BODY_BYTES:
                raise ActivityRefused(413, "the body is too large")
            token_service_url = await self._verify_caller(headers)
            activity = _parse_activity(body)
            tenant = admit_activity(activity, self._settings, token_service_url)
            verified = VerifiedActivity(activity, tenant, get_occurrence_time(activity, self._clock()))
            async with asyncio.timeout(ACTIVITY_TIMEOUT_SECONDS):
                return await self._adapter.process(verified, self._bot)
        except ActivityRefused as refused:
            log.info("An activity was refused with %d: %s", refused.status, refused.detail)
            return build_error(refused.status, refused.reason)
        except (AzureError, Conflict, TimeoutError) as error:
            log.error("An activity could not be stored, Teams is asked to repeat it: %s", type(error).__name__)
            return build_error(503, "the activity could not be stored")

    async def _verify_caller(self, headers: Mapping[str, str]) -> str | None:
        """Return the serviceUrl in the caller's token, or None if no token is needed; raises `ActivityRefused`."""
        if self._verifier is None:
            if not is_local_caller(headers):
                raise ActivityRefused(401, "without an app id, only this machine may call")
            return None
        try:
            return await self._verifier.verify(headers.get("authorization", ""))
        except TokenRefused as refused:
            reason = "the token does not show that Microsoft Teams is calling"
            raise ActivityRefused(401, reason, detail=str(refused)) from None
        except KeysUnavailable:
            raise ActivityRefused(503, "tokens cannot be verified at the moment") from None


def open_endpoint(services: Services) -> Endpoint:
    """Return the endpoint that `services` configures. It needs a token if the settings have an app id."""
    settings, verifier = services.settings, None
    if settings.app_id:
        keys = SigningKeys(settings.openid_metadata_url, services.http, services.real_time)
        verifier = TokenVerifier(keys, issuer=settings.token_issuer, app_id=settings.app_id)
    return Endpoint(settings, verifier, HeraldBot(services), services.real_time)


def _parse_activity(body: bytes) -> Activity:
    try:
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            value = _parse_half_characters(body)
        return Activity.model_validate(value)
    except (ValueError, RecursionError):  # of JSON, UTF-8 or pydantic
        raise ActivityRefused(400, "the body is not an activity") from None


def _parse_half_characters(body: bytes) -> Any:
    """Parse JSON with escapes of half a character (a name may be cut within an emoji), as U+FFFD."""
    text = json.dumps(json.loads(body), ensure_ascii=False)
    return orjson.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
