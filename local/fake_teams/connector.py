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

from local.fake_teams.api import Behaviour
from local.fake_teams.errors import Refusal, answer
from local.fake_teams.faults import Faults, strike
from local.fake_teams.inbox import Inbox, Message
from local.fake_teams.limits import Limits
from local.fake_teams.tokens import Tokens
from local.fake_teams.traffic import Traffic
from local.fake_teams.world import Person, Place, Team, World

#: Bytes of an activity in UTF-16, images in base64 not counted (Teams, "Send and receive messages": about 100 KB).
MAX_ACTIVITY_BYTES = 100 * 1024
#: Members of a page: what is given, between Teams' own bounds (Teams, "Get roster": 50 to 500).
DEFAULT_PAGE, SMALLEST_PAGE, LARGEST_PAGE = 200, 50, 500
READS = frozenset(("members", "pagedMembers", "member", "team", "channels"))
_IMAGE = re.compile(r"data:image/[\w.+-]+;base64,[A-Za-z0-9+/=]+")


@dataclass(frozen=True, slots=True)
class Call:
    """A request by its meaning: `target` is a conversation or a team, `item` an activity or a member."""

    operation: str
    target: str = ""
    item: str = ""


def route(method: str, path: str) -> Call:
    """The call that a method and an escaped path below the service URL mean; raises `Refusal` 404."""
    match method, [unquote(segment) for segment in path.split("/")]:
        case "POST", ["v3", "conversations"]:
            return Call("create")
        case "POST", ["v3", "conversations", target, "activities"]:
            return Call("send", target)
        case "POST", ["v3", "conversations", target, "activities", item]:
            return Call("reply", target, item)
        case "PUT", ["v3", "conversations", target, "activities", item]:
            return Call("update", target, item)
        case "DELETE", ["v3", "conversations", target, "activities", item]:
            return Call("delete", target, item)
        case "GET", ["v3", "conversations", target, "members"]:
            return Call("members", target)
        case "GET", ["v3", "conversations", target, "pagedmembers"]:
            return Call("pagedMembers", target)
        case "GET", ["v3", "conversations", target, "members", item]:
            return Call("member", target, item)
        case "GET", ["v3", "teams", target]:
            return Call("team", target)
        case "GET", ["v3", "teams", target, "conversations"]:
            return Call("channels", target)
    raise Refusal(404, "NotFound", f"No resource at {method} {path}.")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; raises `Refusal` 400."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Refusal(400, message="The request body is no JSON.") from None
    if not isinstance(value, dict):
        raise Refusal(400, message="The request body is no JSON object.")
    return value


def check_activity(activity: dict[str, Any], size: int) -> None:
    """Raises `Refusal` for what Teams would not take; `size` is the body's length in bytes."""
    if not isinstance(activity.get("type"), str) or not activity["type"]:
        raise Refusal(400, message="The 'Activity.Type' field is required.")
    attachments = activity.get("attachments")
    attachments = [] if attachments is None else attachments
    if not isinstance(attachments, list):
        raise Refusal(400, message="'attachments' is no list.")
    for attachment in attachments:
        if not isinstance(attachment, dict) or not attachment.get("contentType"):
            raise Refusal(400, message="An attachment needs a 'contentType'.")
        if attachment["contentType"] == "application/vnd.microsoft.card.adaptive":
            card = attachment.get("content")
            if not isinstance(card, dict) or card.get("type") != "AdaptiveCard":
                raise Refusal(400, message="The attachment's content is no AdaptiveCard.")
    if activity["type"] == "message" and not attachments and not activity.get("text"):
        raise Refusal(400, message="A message needs text or attachments.")
    # UTF-16 takes at most two bytes for each byte of UTF-8: most activities need no closer look.
    if 2 * size > MAX_ACTIVITY_BYTES:
        text = _IMAGE.sub("", orjson.dumps(activity).decode())
        if len(text.encode("utf-16-le")) > MAX_ACTIVITY_BYTES:
            raise Refusal(413)


def member(person: Person) -> dict[str, Any]:
    """A member as Teams describes one (`TeamsChannelAccount`)."""
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


def page(people: list[Person], query: str) -> dict[str, Any]:
    """One page of a roster for `pageSize` and `continuationToken`; raises `Refusal` 400 for a bad one."""
    asked = parse_qs(query)
    try:
        size = int(asked.get("pageSize", [str(DEFAULT_PAGE)])[0])
        start = int(asked.get("continuationToken", ["0"])[0], 16)
    except ValueError:
        raise Refusal(400, message="pageSize or continuationToken is not valid.") from None
    end = start + min(max(size, SMALLEST_PAGE), LARGEST_PAGE)
    found: dict[str, Any] = {"members": [member(person) for person in people[start:end]]}
    if end < len(people):
        found["continuationToken"] = f"{end:x}"
    return found


class Connector:
    """Serves what lies below the service URL."""

    def __init__(
        self,
        *,
        world: World,
        tokens: Tokens,
        limits: Limits,
        faults: Faults,
        inbox: Inbox,
        behaviour: Behaviour,
        traffic: Traffic,
    ) -> None:
        self._world = world
        self._tokens = tokens
        self._limits = limits
        self._faults = faults
        self._inbox = inbox
        self._behaviour = behaviour
        self._traffic = traffic

    async def serve(self, request: web.BaseRequest, path: str, query: str) -> web.Response:
        """Answers the request at an escaped path below the service URL."""
        connection = self._traffic.connection(request, "connector")
        operation = "unknown"
        try:
            call = route(request.method, path)
            operation = call.operation
            response = await self._answer(request, call, query, connection)
        except Refusal as refusal:
            response = answer(refusal.status, refusal.body)
        self._traffic.answered(operation, request, response)
        return response

    async def _answer(self, request: web.BaseRequest, call: Call, query: str, connection: int) -> web.Response:
        token = self._tokens.check(request.headers.get("Authorization"))
        if token is None:
            return answer(401, {"message": "Authorization has been denied for this request."})
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise Refusal(413) from None
        parsed = parse_object(body) if call.operation in ("create", "send", "reply", "update") else {}
        place = self._place_of_new(parsed) if call.operation == "create" else self._place(call)

        now = time.monotonic()
        wait = self._limits.admit(place.tenant, place.id, now, reads=call.operation in READS)
        if wait > 0:
            response = answer(429, Refusal(429).body)
            if self._behaviour.retry_after:
                response.headers["Retry-After"] = str(math.ceil(wait))
            return response

        fault = self._faults.meet(call.operation, now, tenant=place.tenant, person=place.person, conversation=place.id)
        if fault is not None and not fault.accept and (struck := await strike(fault, request)) is not None:
            return struck
        response = self._perform(call, place, parsed, len(body), query, connection, token)
        if fault is not None and fault.accept and (struck := await strike(fault, request)) is not None:
            return struck
        if self._behaviour.latency:
            await asyncio.sleep(self._behaviour.latency)
        return response

    def _perform(
        self,
        call: Call,
        place: Place,
        parsed: dict[str, Any],
        size: int,
        query: str,
        connection: int,
        token: int,
    ) -> web.Response:
        if not place.home.installed:
            if call.operation == "create" and place.kind == "personal":
                raise Refusal(403, "ForbiddenOperationException")
            raise Refusal(403, "BotNotInConversationRoster")
        match call.operation:
            case "create":
                return self._create(place, parsed, size, connection, token)
            case "send" | "reply":
                check_activity(parsed, size)
                reply_to = call.item or None
                sent = self._accept(place, call.target, parsed, reply_to, connection, token)
                # Text and an attachment become two messages, and no id comes back.
                return answer(202, {}) if len(sent) > 1 else answer(201, {"id": sent[0].id})
            case "update":
                check_activity(parsed, size)
                message = self._existing(call)
                self._inbox.update(message, orjson.dumps(parsed))
                return answer(200, {"id": message.id})
            case "delete":
                self._inbox.delete(self._existing(call))
                return web.Response(status=200)
            case "members":
                return answer(200, [member(person) for person in place.members])
            case "pagedMembers":
                return answer(200, page(place.members, query))
            case "member":
                for person in place.members:
                    if call.item in (person.id, person.object_id):
                        return answer(200, member(person))
                raise Refusal(404, "MemberNotFoundInConversation")
            case "team":
                return answer(200, _team(self._world.teams[call.target]))
            case _:
                return answer(200, {"conversations": _channels(self._world.teams[call.target])})

    def _place(self, call: Call) -> Place:
        place = self._world.place(call.target)
        if place is None or (call.operation in ("team", "channels") and call.target not in self._world.teams):
            raise Refusal(404)
        return place

    def _place_of_new(self, parameters: dict[str, Any]) -> Place:
        """Where a conversation is to be created (`ConversationParameters`); raises `Refusal` 400 or 404."""
        data = parameters.get("channelData")
        data = data if isinstance(data, dict) else {}
        if isinstance(data.get("channel"), dict):
            place = self._world.place(str(data["channel"].get("id")))
            if place is None or place.kind != "channel":
                raise Refusal(404)
            if not isinstance(parameters.get("activity"), dict):
                raise Refusal(400, message="A thread in a channel begins with an activity.")
            return place
        members = parameters.get("members")
        if parameters.get("isGroup") or not isinstance(members, list) or len(members) != 1:
            raise Refusal(400, message="Incorrect conversation creation parameters")
        tenant = data["tenant"].get("id") if isinstance(data.get("tenant"), dict) else parameters.get("tenantId")
        if not isinstance(tenant, str) or tenant.lower() not in self._world.tenants:
            raise Refusal(400, message="Missing or unknown tenant id.")
        identity = str(members[0].get("id", "")) if isinstance(members[0], dict) else ""
        person = self._world.people.get(identity)
        if person is None or person.tenant != tenant.lower():
            raise Refusal(400, message="Invalid user identity in provided tenant")
        return self._world.places[person.conversation]

    def _create(self, place: Place, parameters: dict[str, Any], size: int, connection: int, token: int) -> web.Response:
        activity = parameters.get("activity")
        if not isinstance(activity, dict):
            return answer(200, {"id": place.id})
        check_activity(activity, size)
        first = self._accept(place, place.id, activity, None, connection, token)[0]
        return answer(200, {"id": first.conversation, "activityId": first.id})

    def _accept(
        self,
        place: Place,
        conversation: str,
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
            where = conversation
            if place.kind == "channel" and ";messageid=" not in conversation:
                # What is posted to a channel itself is the root of a thread.
                where = f"{place.id};messageid={message_id}"
                self._world.threads.add(where)
            sent.append(
                self._inbox.add(
                    where,
                    message_id,
                    orjson.dumps(part),
                    reply_to=reply_to,
                    connection=connection,
                    token=token,
                )
            )
        return sent

    def _existing(self, call: Call) -> Message:
        message = self._inbox.find(call.target, call.item)
        if message is None:
            raise Refusal(404, "ActivityNotFoundInConversation")
        return message


def _team(team: Team) -> dict[str, Any]:
    """A team as Teams describes one (`TeamDetails`)."""
    return {
        "id": team.id,
        "name": team.name,
        "aadGroupId": team.group_id,
        "channelCount": len(_channels(team)),
        "memberCount": len(team.members),
        "tenantId": team.tenant,
        "type": "standard",
    }


def _channels(team: Team) -> list[dict[str, Any]]:
    return [
        {"id": channel.id, "name": channel.name, "type": "standard"}
        for channel in team.channels.values()
        if not channel.deleted
    ]
