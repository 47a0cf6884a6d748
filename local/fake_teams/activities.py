"""Build the activities that Teams sends to a bot (Teams, "Conversation events", "Send and receive messages")."""

from __future__ import annotations

import datetime
import uuid
from typing import Any
from zoneinfo import ZoneInfo

from local.fake_teams.world import Channel, Chat, FakeConversation, Person, Team

Activity = dict[str, Any]

#: The name under which the bot is mentioned.
BOT_NAME = "Herald"


def build_base(
    kind: str, *, service_url: str, bot: str, sender: Person, conversation: FakeConversation, thread: str | None = None
) -> Activity:
    """Return the fields that all activities have; `thread` is the id of a channel thread's root message."""
    account: dict[str, Any] = {
        "conversationType": conversation.kind,
        "tenantId": conversation.tenant,
        "id": conversation.id,
    }
    if conversation.kind != "personal":
        account["isGroup"] = True
    if isinstance(conversation.owner, Chat):
        account["name"] = conversation.owner.name
    if thread:
        account["id"] += f";messageid={thread}"
    return {
        "type": kind,
        "id": f"f:{uuid.uuid4()}",
        "timestamp": _utc_now(),
        "serviceUrl": service_url,
        "channelId": "msteams",
        "from": {"id": sender.id, "aadObjectId": sender.object_id},
        "conversation": account,
        "recipient": {"id": bot, "name": BOT_NAME},
        "channelData": _channel_data(conversation),
    }


def _channel_data(conversation: FakeConversation) -> dict[str, Any]:
    """Return the `channelData` (`TeamsChannelData`) of a conversation."""
    data: dict[str, Any] = {"tenant": {"id": conversation.tenant}}
    if isinstance(conversation.owner, Team):
        team = conversation.owner
        data["team"] = {"id": team.id, "name": team.name, "aadGroupId": team.group_id}
    return data


def add_client_info(activity: Activity, sender: Person) -> Activity:
    """Add the fields of a Teams client: name, locale, local time, and the entity `clientInfo`."""
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


def build_installation(base: Activity, conversation: FakeConversation, *, added: bool) -> Activity:
    """Return an `installationUpdate`; for a team it has the selected channel."""
    activity = {**base, "action": "add" if added else "remove", "channelData": dict(base["channelData"])}
    if isinstance(conversation.owner, Team):
        activity["channelData"]["settings"] = {"selectedChannel": {"id": conversation.id}}
    activity["channelData"]["source"] = {"name": "message"}
    return activity


def build_membership(
    base: Activity, conversation: FakeConversation, accounts: list[dict[str, Any]], *, added: bool
) -> Activity:
    """Return a `conversationUpdate` for accounts that were added or removed."""
    activity = {**base, "membersAdded" if added else "membersRemoved": accounts}
    if isinstance(conversation.owner, Team):
        event = "teamMemberAdded" if added else "teamMemberRemoved"
        activity["channelData"] = {**base["channelData"], "eventType": event}
    return activity


def build_account(person: Person) -> dict[str, Any]:
    return {"id": person.id, "aadObjectId": person.object_id}


def build_team_event(base: Activity, event: str, channel: Channel | None) -> Activity:
    """Return a `conversationUpdate` for a change of a team or of one of its channels."""
    data = {**base["channelData"], "eventType": event}
    if channel is not None:
        data["channel"] = {"id": channel.id, "name": channel.name}
    return {**base, "channelData": data}


def build_message(
    base: Activity, conversation: FakeConversation, text: str, *, message_id: str, value: Any, reply_to: str | None
) -> Activity:
    """Return a message; outside the personal chat it mentions the bot, which would not receive it otherwise."""
    activity = {**base, "id": message_id, "text": text, "textFormat": "plain", "attachments": []}
    if conversation.kind != "personal":
        mention = f"<at>{BOT_NAME}</at>"
        activity["text"] = f"{mention} {text}"
        entity = {"type": "mention", "mentioned": base["recipient"], "text": mention}
        activity["entities"] = [entity, *base.get("entities", [])]
    if isinstance(conversation.owner, Team):
        ids = {
            "teamsChannelId": conversation.id,
            "teamsTeamId": conversation.owner.id,
            "channel": {"id": conversation.id},
        }
        activity["channelData"] = {**base["channelData"], **ids}
    if value is not None:
        activity["value"] = value
    if reply_to:
        activity["replyToId"] = reply_to
    return activity


def build_card_action(base: Activity, verb: str, data: dict[str, Any], reply_to: str | None) -> Activity:
    """Return the `invoke` of an `Action.Execute` ("Universal Actions for Adaptive Cards")."""
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


def build_reaction(base: Activity, kind: str, reply_to: str | None, *, removed: bool) -> Activity:
    field = "reactionsRemoved" if removed else "reactionsAdded"
    return {**base, field: [{"type": kind}], "replyToId": reply_to}


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396): null removes a member."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def _utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
