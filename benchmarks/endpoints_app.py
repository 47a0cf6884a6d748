"""An app with meters and several HTTP endpoints for activities, but without other triggers.

`messages` is Herald's own endpoint, `admission` the same with a bot that does nothing. `botbuilder` passes activities
to that bot by `CloudAdapterBase.process_activity`, as the samples of the SDK do. `nothing` measures the host alone.
"""

from __future__ import annotations

from functools import cache
from http import HTTPStatus

import aiohttp
import azure.functions as func
import orjson
from botbuilder.core import ActivityHandler, CloudAdapterBase
from botbuilder.schema import Activity
from botframework.connector.auth import (
    AuthenticationConfiguration,
    BotFrameworkAuthenticationFactory,
    PasswordServiceClientCredentialFactory,
)

from benchmarks import host_meters
from messages import functions
from messages.auth.signing_keys import SigningKeys
from messages.auth.token_verifier import TokenVerifier
from messages.endpoint import Endpoint
from shared.settings import load_settings
from shared.time.clock import real_time

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
app.register_functions(host_meters.blueprint)
app.register_functions(functions.blueprint)


class Adapter(CloudAdapterBase):  # type: ignore[misc]
    """botbuilder's CloudAdapter without its web server."""


@cache
def get_adapter() -> Adapter:
    """Return an adapter with Herald's settings."""
    settings = load_settings()
    authentication = BotFrameworkAuthenticationFactory.create(
        validate_authority=True,
        to_channel_from_bot_login_url=settings.authority,
        to_channel_from_bot_oauth_scope=settings.oauth_scope,
        to_bot_from_channel_token_issuer=settings.token_issuer,
        oauth_url="https://api.botframework.com",
        to_bot_from_channel_open_id_metadata_url=settings.openid_metadata_url,
        to_bot_from_emulator_open_id_metadata_url=settings.openid_metadata_url,
        credential_factory=PasswordServiceClientCredentialFactory(
            settings.app_id, settings.app_password, settings.app_tenant
        ),
        auth_configuration=AuthenticationConfiguration(),
    )
    return Adapter(authentication)


@cache
def get_endpoint() -> Endpoint:
    """Return Herald's endpoint with a bot that does nothing; the caller must be in a running event loop."""
    settings = load_settings()
    keys = SigningKeys(settings.openid_metadata_url, aiohttp.ClientSession(), real_time)
    verifier = TokenVerifier(keys, issuer=settings.token_issuer, app_id=settings.app_id)
    return Endpoint(settings, verifier, ActivityHandler(), real_time)


@app.route(route="admission", methods=["POST"])
async def admission(req: func.HttpRequest) -> func.HttpResponse:
    answer = await get_endpoint().receive(req.headers, req.get_body())
    return func.HttpResponse(answer.body, status_code=answer.status)


@app.route(route="botbuilder", methods=["POST"])
async def botbuilder(req: func.HttpRequest) -> func.HttpResponse:
    activity = Activity().deserialize(orjson.loads(req.get_body()))
    await get_adapter().process_activity(req.headers.get("authorization", ""), activity, ActivityHandler().on_turn)
    return func.HttpResponse(status_code=HTTPStatus.OK)


@app.route(route="nothing", methods=["POST"])
async def nothing(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(status_code=HTTPStatus.OK)
