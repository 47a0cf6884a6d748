"""HTTP trigger: the endpoint to which Teams posts activities."""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import TYPE_CHECKING

import azure.functions as func
from azure.core.exceptions import AzureError

from messages.http_answer import Answer, refusal
from shared.services import Services, get_services

if TYPE_CHECKING:
    from messages.endpoint import Endpoint

blueprint = func.Blueprint()
log = logging.getLogger(__name__)

_opened: tuple[Services, Endpoint] | None = None


# Anonymous to the function host: Teams has no key of it, and shows a token, which is verified.
@blueprint.route(route="messages", methods=["POST"], auth_level=func.AuthLevel.ANONYMOUS)
async def messages(req: func.HttpRequest) -> func.HttpResponse:
    try:
        endpoint = await _endpoint()
    except AzureError as error:
        log.error("Storage could not be opened, Teams is told to repeat its activity: %s", type(error).__name__)
        return _encoded(refusal(503, "the storage is not available"))
    return _encoded(await endpoint.receive(req.headers, req.get_body()))


def _encoded(answer: Answer) -> func.HttpResponse:
    # RFC 9110, 11.6.1: a 401 names the scheme that is wanted.
    headers = {"WWW-Authenticate": "Bearer"} if answer.status == 401 else {}
    return func.HttpResponse(answer.body, status_code=answer.status, headers=headers, mimetype="application/json")


async def _endpoint() -> Endpoint:
    """The endpoint on this process's services.

    Importing it takes half a second, since it brings botbuilder: it is imported by the first activity and off the
    loop, so that a worker which only sends never does.
    """
    global _opened
    services = await get_services()
    if _opened is None or _opened[0] is not services:
        await asyncio.to_thread(importlib.import_module, "messages.endpoint")
        from messages.endpoint import open_endpoint

        if _opened is None or _opened[0] is not services:
            _opened = services, open_endpoint(services)
    return _opened[1]
