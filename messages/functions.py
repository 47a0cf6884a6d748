"""HTTP trigger: the endpoint to which Teams posts activities."""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import TYPE_CHECKING

import azure.functions as func
from azure.core.exceptions import AzureError

from messages.http_answer import HttpAnswer, build_error
from shared.services import Services, get_services

if TYPE_CHECKING:
    from messages.endpoint import Endpoint

blueprint = func.Blueprint()
log = logging.getLogger(__name__)

_opened: tuple[Services, Endpoint] | None = None


# Anonymous for the Functions host: Teams sends no function key but a token, which the endpoint verifies.
@blueprint.route(route="messages", methods=["POST"], auth_level=func.AuthLevel.ANONYMOUS)
async def messages(req: func.HttpRequest) -> func.HttpResponse:
    try:
        endpoint = await _get_endpoint()
    except AzureError as error:
        log.error("Storage could not be opened, Teams is asked to repeat the activity: %s", type(error).__name__)
        return _encode(build_error(503, "the storage is not available"))
    return _encode(await endpoint.receive(req.headers, req.get_body()))


def create_refusing_blueprint(reason: str) -> func.Blueprint:
    """Return the functions of an app whose settings are wrong: Teams and operators are told the reason.

    It has no trigger of a queue or timer, so that all messages wait.
    """
    refusing = func.Blueprint()

    @refusing.route(route="messages", methods=["POST", "GET"], auth_level=func.AuthLevel.ANONYMOUS)
    async def messages(req: func.HttpRequest) -> func.HttpResponse:
        return _encode(build_error(503, reason))

    return refusing


def _encode(answer: HttpAnswer) -> func.HttpResponse:
    # RFC 9110, 11.6.1: a 401 names the authentication scheme.
    headers = {"WWW-Authenticate": "Bearer"} if answer.status == 401 else {}
    return func.HttpResponse(answer.body, status_code=answer.status, headers=headers, mimetype="application/json")


async def _get_endpoint() -> Endpoint:
    """Return the endpoint of this process's services, opened when first needed.

    Importing its module takes half a second, because it imports botbuilder. The first activity imports it, outside the
    event loop; a worker that only sends never does.
    """
    global _opened
    services = await get_services()
    if _opened is None or _opened[0] is not services:
        await asyncio.to_thread(importlib.import_module, "messages.endpoint")
        from messages.endpoint import open_endpoint

        if _opened is None or _opened[0] is not services:
            _opened = services, open_endpoint(services)
    return _opened[1]
