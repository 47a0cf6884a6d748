"""The errors of Teams, Graph and Entra ID, and their response bodies."""

from __future__ import annotations

import datetime
import uuid
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

#: The default error code of a status, and the message of a code (Teams, "Bot APIs: status codes").
CODES = {
    400: "Bad Argument",
    401: "BotNotRegistered",
    404: "ConversationNotFound",
    412: "PreconditionFailed",
    413: "MessageSizeTooBig",
    429: "Throttled",
    500: "ServiceError",
    502: "ServiceError",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}
MESSAGES = {
    "BotNotRegistered": "No registration found for this bot.",
    "BotDisabledByAdmin": "The tenant admin disabled this bot.",
    "BotNotInConversationRoster": "The bot is not part of the conversation roster.",
    "ConversationBlockedByUser": "User blocked the conversation with the bot.",
    "ForbiddenOperationException": "Bot is not installed in user's personal scope.",
    "InvalidBotApiHost": "Invalid bot api host. For GCC tenants, call the GCC host.",
    "NotEnoughPermissions": "The bot does not have the permissions for this operation.",
    "ConversationNotFound": "Conversation not found.",
    "ActivityNotFoundInConversation": "Activity not found in the conversation.",
    "MemberNotFoundInConversation": "The member was not found in the conversation.",
    "PreconditionFailed": "Precondition failed, please try again.",
    "MessageSizeTooBig": "Message size too large.",
    "Throttled": "Too many requests.",
    "ServiceError": "Various internal errors.",
}
HTML = "<html><head><title>{reason}</title></head><body><center><h1>{reason}</h1></center></body></html>"


class ConnectorError(Exception):
    """The Bot Connector refuses a request with this status, code and message."""

    def __init__(self, status: int, code: str | None = None, message: str | None = None) -> None:
        self.status = status
        self.code = code or CODES.get(status, "ServiceError")
        self.message = message or MESSAGES.get(self.code, self.code)
        super().__init__(f"{status} {self.code}: {self.message}")

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message}}

    @property
    def nested(self) -> dict[str, Any]:
        """The other documented format: an error code, and a message that is JSON itself."""
        blocked = self.code in ("ConversationBlockedByUser", "BotNotInConversationRoster")
        inner = {
            "subCode": "MessageWritesBlocked" if blocked else self.code,
            "details": "Thread is blocked from message writes." if blocked else self.message,
            "errorCode": None,
            "errorSubCode": None,
        }
        return {"errorCode": 209, "message": orjson.dumps(inner, option=orjson.OPT_INDENT_2).decode()}


class EntraError(ConnectorError):
    """The token endpoint refuses a request; `number` is that of the `AADSTS` code."""

    def __init__(self, status: int, code: str, number: int, message: str) -> None:
        super().__init__(status, code, message)
        self.number = number

    @property
    def body(self) -> dict[str, Any]:
        return {
            "error": self.code,
            "error_description": f"AADSTS{self.number}: {self.message}",
            "error_codes": [self.number],
            "trace_id": "00000000-0000-0000-0000-000000000000",
            "correlation_id": "00000000-0000-0000-0000-000000000000",
        }


#: The default error code of Graph for a status ("Microsoft Graph error responses and resource types").
GRAPH_CODES = {
    400: "BadRequest",
    401: "InvalidAuthenticationToken",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalServerError",
    502: "BadGateway",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}


class GraphError(ConnectorError):
    """Graph refuses a request; `inner_code` is that of the inner error, which not all errors have."""

    def __init__(
        self, status: int, code: str | None = None, message: str | None = None, *, inner_code: str | None = None
    ) -> None:
        code = code or GRAPH_CODES.get(status, "UnknownError")
        super().__init__(status, code, message if message is not None else code)
        self.inner_code = inner_code

    @property
    def body(self) -> dict[str, Any]:
        request = str(uuid.uuid4())
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
        inner = {"date": now, "request-id": request, "client-request-id": request}
        if self.inner_code:
            inner = {"code": self.inner_code, "message": self.message, **inner}
        return {"error": {"code": self.code, "message": self.message, "innerError": inner}}


def json_response(status: int, data: Any) -> web.Response:
    """Return a JSON response; `data` is anything that orjson can serialize."""
    return web.Response(
        status=status,
        body=orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS),
        content_type="application/json",
    )


def html_response(status: int) -> web.Response:
    """Return the error page of a proxy in front of the service."""
    reason = f"{status} {HTTPStatus(status).phrase}"
    return web.Response(status=status, text=HTML.format(reason=reason), content_type="text/html")
