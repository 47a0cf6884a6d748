"""The Bot Connector of Teams: conversations, activities, members, teams (Bot Framework REST API, v3)."""

from __future__ import annotations

import asyncio
import math
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson
from aiohttp import web

from local.fake_teams.errors import ConnectorError, json_response
from local.fake_teams.fault_injector import apply_fault
from local.fake_teams.inbox import Message
from local.fake_teams.state import FakeState
from local.fake_teams.world import FakeConversation, Person, Team

#: The size limit of an activity in UTF-16, without base64 images (Teams, "Send and receive messages": about 100 KB).
MAX_ACTIVITY_BYTES = 100 * 1024
#: Members of a page by default, and the limits of Teams (Teams, "Get roster": 50 to 500).
DEFAULT_PAGE_SIZE, MIN_PAGE_SIZE, MAX_PAGE_SIZE = 200, 50, 500
READ_OPERATIONS = frozenset(("members", "pagedMembers", "member", "team", "channels"))
_IMAGE = re.compile(r"data:image/[\w.+-]+;base64,[A-Za-z0-9+/=]+")


@dataclass(frozen=True, slots=True)
class ConnectorCall:
    """A parsed request: `target` is a conversation or a team, `item` an activity or a member."""

    operation: str
    target: str = ""
    item: str = ""


def parse_call(method: str, path: str) -> ConnectorCall:
    """Parse a method and an escaped path below the service URL; raises `ConnectorError` 404."""
    match method, [unquote(segment) for segment in path.split("/")]:
        case "POST", ["v3", "conversations"]:
            return ConnectorCall("create")
        case "POST", ["v3", "conversations", target, "activities"]:
            return ConnectorCall("send", target)
        case "POST", ["v3", "conversations", target, "activities", item]:
            return ConnectorCall("reply", target, item)
        case "PUT", ["v3", "conversations", target, "activities", item]:
            return ConnectorCall("update", target, item)
        case "DELETE", ["v3", "conversations", target, "activities", item]:
            return ConnectorCall("delete", target, item)
        case "GET", ["v3", "conversations", target, "members"]:
            return ConnectorCall("members", target)
        case "GET", ["v3", "conversations", target, "pagedmembers"]:
            return ConnectorCall("pagedMembers", target)
        case "GET", ["v3", "conversations", target, "members", item]:
            return ConnectorCall("member", target, item)
        case "GET", ["v3", "teams", target]:
            return ConnectorCall("team", target)
        case "GET", ["v3", "teams", target, "conversations"]:
            return ConnectorCall("channels", target)
    raise ConnectorError(404, "NotFound", f"No resource at {method} {path}.")


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body; raises `ConnectorError` 400."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ConnectorError(400, message="The request body is not JSON.") from None
    if not isinstance(value, dict):
        raise ConnectorError(400, message="The request body is not a JSON object.")
    return value


def check_activity(activity: dict[str, Any], size: int) -> None:
    """Raise `ConnectorError` for an activity that Teams refuses; `size` is the length of the body in bytes."""
    if not isinstance(activity.get("type"), str) or not activity["type"]:
        raise ConnectorError(400, message="The 'Activity.Type' field is required.")
    attachments = activity.get("attachments")
    attachments = [] if attachments is None else attachments
    if not isinstance(attachments, list):
        raise ConnectorError(400, message="'attachments' is not a list.")
    for attachment in attachments:
        if not isinstance(attachment, dict) or not attachment.get("contentType"):
            raise ConnectorError(400, message="An attachment needs a 'contentType'.")
        if attachment["contentType"] == "application/vnd.microsoft.card.adaptive":
            card = attachment.get("content")
            if not isinstance(card, dict) or card.get("type") != "AdaptiveCard":
                raise ConnectorError(400, message="The attachment's content is not an AdaptiveCard.")
    if activity["type"] == "message" and not attachments and not activity.get("text"):
        raise ConnectorError(400, message="A message needs text or attachments.")
    # UTF-16 has at most two bytes for each byte of UTF-8: most activities need not be measured.
    if 2 * size > MAX_ACTIVITY_BYTES:
        text = _IMAGE.sub("", orjson.dumps(activity).decode())
        if len(text.encode("utf-16-le")) > MAX_ACTIVITY_BYTES:
            raise ConnectorError(413)


def build_member(person: Person) -> dict[str, Any]:
    """Return a member in the format of Teams (`TeamsChannelAccount`)."""
    return {
        "id": person.id,
        "name": person.name,
        "givenName": "Person",
        "surname": str(person.number),
        "email": person.user_principal_name,
        "userPrincipalName": person.user_principal_name,
        "objectId": person.object_id,
        "aadObjectId": person.object_id,
        "tenantId": person.tenant,
        "userRole": "user",
    }


def build_member_page(people: list[Person], query: str) -> dict[str, Any]:
    """Return one page of a roster for `pageSize` and `continuationToken`; raises `ConnectorError` 400."""
    parameters = parse_qs(query)
    try:
        size = int(parameters.get("pageSize", [str(DEFAULT_PAGE_SIZE)])[0])
        start = int(parameters.get("continuationToken", ["0"])[0], 16)
    except ValueError:
        raise ConnectorError(400, message="pageSize or continuationToken is not valid.") from None
    end = start + min(max(size, MIN_PAGE_SIZE), MAX_PAGE_SIZE)
    page: dict[str, Any] = {"members": [build_member(person) for person in people[start:end]]}
    if end < len(people):
        page["continuationToken"] = f"{end:x}"
    return page


class FakeConnector:
    """Serves the requests below the service URL."""

    def __init__(self, state: FakeState) -> None:
        self._state = state
        self._world = state.world
        self._inbox = state.inbox

    async def serve(self, request: web.BaseRequest, path: str, query: str) -> web.Response:
        """Respond to the request at an escaped path below the service URL."""
        connection = self._state.traffic.count_connection(request, "connector")
        operation = "unknown"
        try:
            call = parse_call(request.method, path)
            operation = call.operation
            response = await self._respond(request, call, query, connection)
        except ConnectorError as error:
            response = json_response(error.status, error.body)
        self._state.traffic.count_response(operation, request, response)
        return response

    async def _respond(
        self, request: web.BaseRequest, call: ConnectorCall, query: str, connection: int
    ) -> web.Response:
        token = self._state.tokens.check(request.headers.get("Authorization"))
        if token is None:
            return json_response(401, {"message": "Authorization has been denied for this request."})
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise ConnectorError(413) from None
        parsed = parse_object(body) if call.operation in ("create", "send", "reply", "update") else {}
        conversation = self._new_conversation(parsed) if call.operation == "create" else self._find_conversation(call)

        now = time.monotonic()
        is_read = call.operation in READ_OPERATIONS
        wait = self._state.limits.admit(conversation.tenant, conversation.id, now, reads=is_read)
        if wait > 0:
            response = json_response(429, ConnectorError(429).body)
            if self._state.behaviour.retry_after:
                response.headers["Retry-After"] = str(math.ceil(wait))
            return response

        fault = self._state.faults.match(
            call.operation,
            now,
            tenant=conversation.tenant,
            person=conversation.person,
            conversation=conversation.id,
        )
        if fault is not None and not fault.accept and (injected := await apply_fault(fault, request)) is not None:
            return injected
        response = self._perform(call, conversation, parsed, len(body), query, connection, token)
        if fault is not None and fault.accept and (injected := await apply_fault(fault, request)) is not None:
            return injected
        if self._state.behaviour.latency:
            await asyncio.sleep(self._state.behaviour.latency)
        return response

    def _perform(
        self,
        call: ConnectorCall,
        conversation: FakeConversation,
        parsed: dict[str, Any],
        size: int,
        query: str,
        connection: int,
        token: int,
    ) -> web.Response:
        if not conversation.owner.installed:
            if call.operation == "create" and conversation.kind == "personal":
                raise ConnectorError(403, "ForbiddenOperationException")
            raise ConnectorError(403, "BotNotInConversationRoster")
        match call.operation:
            case "create":
                return self._create(conversation, parsed, size, connection, token)
            case "send" | "reply":
                check_activity(parsed, size)
                reply_to = call.item or None
                sent = self._accept(conversation, call.target, parsed, reply_to, connection, token)
                # Teams splits text and an attachment into two messages and returns no id.
                return json_response(202, {}) if len(sent) > 1 else json_response(201, {"id": sent[0].id})
            case "update":
                check_activity(parsed, size)
                message = self._get_message(call)
                self._inbox.update(message, orjson.dumps(parsed))
                return json_response(200, {"id": message.id})
            case "delete":
                self._inbox.delete(self._get_message(call))
                return web.Response(status=200)
            case "members":
                return json_response(200, [build_member(person) for person in conversation.members])
            case "pagedMembers":
                return json_response(200, build_member_page(conversation.members, query))
            case "member":
                for person in conversation.members:
                    if call.item in (person.id, person.object_id):
                        return json_response(200, build_member(person))
                raise ConnectorError(404, "MemberNotFoundInConversation")
            case "team":
                return json_response(200, _build_team(self._world.teams[call.target]))
            case _:
                return json_response(200, {"conversations": _list_channels(self._world.teams[call.target])})

    def _find_conversation(self, call: ConnectorCall) -> FakeConversation:
        conversation = self._world.find_conversation(call.target)
        if conversation is None or (call.operation in ("team", "channels") and call.target not in self._world.teams):
            raise ConnectorError(404)
        return conversation

    def _new_conversation(self, parameters: dict[str, Any]) -> FakeConversation:
        """Return the conversation for `ConversationParameters`; raises `ConnectorError` 400 or 404."""
        data = parameters.get("channelData")
        data = data if isinstance(data, dict) else {}
        if isinstance(data.get("channel"), dict):
            conversation = self._world.find_conversation(str(data["channel"].get("id")))
            if conversation is None or conversation.kind != "channel":
                raise ConnectorError(404)
            if not isinstance(parameters.get("activity"), dict):
                raise ConnectorError(400, message="A thread in a channel needs an activity.")
            return conversation
        members = parameters.get("members")
        if parameters.get("isGroup") or not isinstance(members, list) or len(members) != 1:
            raise ConnectorError(400, message="Incorrect conversation creation parameters")
        tenant = data["tenant"].get("id") if isinstance(data.get("tenant"), dict) else parameters.get("tenantId")
        if not isinstance(tenant, str) or tenant.lower() not in self._world.tenants:
            raise ConnectorError(400, message="Missing or unknown tenant id.")
        identity = str(members[0].get("id", "")) if isinstance(members[0], dict) else ""
        person = self._world.people.get(identity)
        if person is None or person.tenant != tenant.lower():
            raise ConnectorError(400, message="Invalid user identity in provided tenant")
        return self._world.conversations[person.conversation]

    def _create(
        self, conversation: FakeConversation, parameters: dict[str, Any], size: int, connection: int, token: int
    ) -> web.Response:
        activity = parameters.get("activity")
        if not isinstance(activity, dict):
            return json_response(200, {"id": conversation.id})
        check_activity(activity, size)
        first = self._accept(conversation, conversation.id, activity, None, connection, token)[0]
        return json_response(200, {"id": first.conversation, "activityId": first.id})

    def _accept(
        self,
        conversation: FakeConversation,
        conversation_id: str,
        activity: dict[str, Any],
        reply_to: str | None,
        connection: int,
        token: int,
    ) -> list[Message]:
        parts = [activity]
        if activity.get("text") and activity.get("attachments"):
            parts = [{**activity, "attachments": []}, {**activity, "text": ""}]
        sent = []
        for part in parts:
            message_id = self._world.new_message_id()
            target = conversation_id
            if conversation.kind == "channel" and ";messageid=" not in conversation_id:
                # A message to the channel itself is the root of a new thread.
                target = f"{conversation.id};messageid={message_id}"
                self._world.threads.add(target)
            sent.append(
                self._inbox.add(
                    target,
                    message_id,
                    orjson.dumps(part),
                    reply_to=reply_to,
                    connection=connection,
                    token=token,
                )
            )
        return sent

    def _get_message(self, call: ConnectorCall) -> Message:
        message = self._inbox.find(call.target, call.item)
        if message is None:
            raise ConnectorError(404, "ActivityNotFoundInConversation")
        return message


def _build_team(team: Team) -> dict[str, Any]:
    """Return a team in the format of Teams (`TeamDetails`)."""
    return {
        "id": team.id,
        "name": team.name,
        "aadGroupId": team.group_id,
        "channelCount": len(_list_channels(team)),
        "memberCount": len(team.members),
        "tenantId": team.tenant,
        "type": "standard",
    }


def _list_channels(team: Team) -> list[dict[str, Any]]:
    return [
        {"id": channel.id, "name": channel.name, "type": "standard"}
        for channel in team.channels.values()
        if not channel.deleted
    ]
