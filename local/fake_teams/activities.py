"""The activities that Teams sends to a bot, as values (Teams, "Conversation events", "Send and receive messages")."""

from __future__ import annotations

import datetime
import uuid
from typing import Any
from zoneinfo import ZoneInfo

from local.fake_teams.world import Channel, Chat, Person, Place, Team

Activity = dict[str, Any]

#: The name under which the bot is mentioned.
BOT_NAME = "Herald"


def envelope(
    kind: str, *, service_url: str, bot: str, sender: Person, place: Place, thread: str | None = None
) -> Activity:
    """What every activity carries; `thread` is the id of a channel thread's root message."""
    conversation: dict[str, Any] = {"conversationType": place.kind, "tenantId": place.tenant, "id": place.id}
    if place.kind != "personal":
        conversation["isGroup"] = True
    if isinstance(place.home, Chat):
        conversation["name"] = place.home.name
    if thread:
        conversation["id"] += f";messageid={thread}"
    return {
        "type": kind,
        "id": f"f:{uuid.uuid4()}",
        "timestamp": _utc(),
        "serviceUrl": service_url,
        "channelId": "msteams",
        "from": {"id": sender.id, "aadObjectId": sender.object_id},
        "conversation": conversation,
        "recipient": {"id": bot, "name": BOT_NAME},
        "channelData": channel_data(place),
    }


def channel_data(place: Place) -> dict[str, Any]:
    """`channelData` (`TeamsChannelData`) for a place."""
    data: dict[str, Any] = {"tenant": {"id": place.tenant}}
    if isinstance(place.home, Team):
        data["team"] = {"id": place.home.id, "name": place.home.name, "aadGroupId": place.home.group_id}
    return data


def from_client(activity: Activity, sender: Person) -> Activity:
    """The activity with what a Teams client adds: name, locale, local time, and the entity `clientInfo`."""
    zone = ZoneInfo(sender.time_zone)
    info = {
        "type": "clientInfo",
        "locale": sender.locale,
        "country": sender.locale.rpartition("-")[2].upper(),
        "platform": "Windows",
        "timezone": sender.time_zone,
    }
    return {
        **activity,
        "from": {**activity["from"], "name": sender.name},
        "locale": sender.locale,
        "localTimezone": sender.time_zone,
        "localTimestamp": datetime.datetime.now(zone).isoformat(timespec="milliseconds"),
        "entities": [info],
    }


def installation(base: Activity, place: Place, *, added: bool) -> Activity:
    """`installationUpdate`; to a team it names the channel that was chosen."""
    activity = {**base, "action": "add" if added else "remove", "channelData": dict(base["channelData"])}
    if isinstance(place.home, Team):
        activity["channelData"]["settings"] = {"selectedChannel": {"id": place.id}}
    activity["channelData"]["source"] = {"name": "message"}
    return activity


def membership(base: Activity, place: Place, accounts: list[dict[str, Any]], *, added: bool) -> Activity:
    """`conversationUpdate` for accounts that were added or removed."""
    activity = {**base, "membersAdded" if added else "membersRemoved": accounts}
    if isinstance(place.home, Team):
        event = "teamMemberAdded" if added else "teamMemberRemoved"
        activity["channelData"] = {**base["channelData"], "eventType": event}
    return activity


def account(person: Person) -> dict[str, Any]:
    return {"id": person.id, "aadObjectId": person.object_id}


def team_event(base: Activity, event: str, channel: Channel | None) -> Activity:
    """`conversationUpdate` for a change of a team or of one of its channels."""
    data = {**base["channelData"], "eventType": event}
    if channel is not None:
        data["channel"] = {"id": channel.id, "name": channel.name}
    return {**base, "channelData": data}


def message(base: Activity, place: Place, text: str, *, message_id: str, value: Any, reply_to: str | None) -> Activity:
    """A message; outside the personal chat the bot is mentioned, since it would not get the message otherwise."""
    activity = {**base, "id": message_id, "text": text, "textFormat": "plain", "attachments": []}
    if place.kind != "personal":
        mention = f"<at>{BOT_NAME}</at>"
        activity["text"] = f"{mention} {text}"
        entity = {"type": "mention", "mentioned": base["recipient"], "text": mention}
        activity["entities"] = [entity, *base.get("entities", [])]
    if isinstance(place.home, Team):
        ids = {"teamsChannelId": place.id, "teamsTeamId": place.home.id, "channel": {"id": place.id}}
        activity["channelData"] = {**base["channelData"], **ids}
    if value is not None:
        activity["value"] = value
    if reply_to:
        activity["replyToId"] = reply_to
    return activity


def card_action(base: Activity, verb: str, data: dict[str, Any], reply_to: str | None) -> Activity:
    """The `invoke` of an `Action.Execute` ("Universal Actions for Adaptive Cards")."""
    action = {"type": "Action.Execute", "title": verb, "verb": verb, "data": data}
    activity = {**base, "name": "adaptiveCard/action", "value": {"action": action, "trigger": "manual"}}
    activity["channelData"] = {
        **base["channelData"],
        "source": {"name": "message"},
        "legacy": {"replyToId": reply_to},
    }
    if reply_to:
        activity["replyToId"] = reply_to
    return activity


def reaction(base: Activity, kind: str, reply_to: str | None, *, removed: bool) -> Activity:
    field = "reactionsRemoved" if removed else "reactionsAdded"
    return {**base, field: [{"type": kind}], "replyToId": reply_to}


def merge(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396): null takes a member away."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def _utc() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
