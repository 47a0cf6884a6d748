"""Compute, from one activity, which rows of table Conversations change, and how.

- Every activity refreshes the tenant's row with its serviceUrl.
- Personal chat: an install, or any other activity, creates the person's row with the chat, and an alias from the chat
  to the person. An uninstall deactivates the row.
- Group chat and channel: the row of the chat, or of the channel and its team. People who write or are added become
  known without a chat, so that their personal chat is never changed.
- Team: its row says whether the bot is installed and the team exists, for all of its channels. Archiving changes
  nothing: Teams decides at each send whether a bot may post in an archived team.
- An install, an uninstall and the deletion of a team or channel set the status. A message proves that the bot is
  installed and reactivates. Other activities leave the status as it is. What deactivates a row never creates one.
- People removed from a team or chat keep their rows: a row says who a person is, not where they are a member.

Activities arrive repeated, out of order and incomplete. Rows are therefore keyed by Teams' ids, a missing value leaves
the stored one as it is, and storage compares the times of events before it changes a status.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import chain

from messages.activity.schema import Account, Incoming
from shared.states import ReferenceKind, ReferenceStatus
from shared.time.zone_names import find_zone

#: Longest name that is kept, in characters.
MAX_NAME_CHARS = 200

#: Longest name of a time zone that is looked up, in characters.
MAX_ZONE_CHARS = 64

#: What `installationUpdate` says (`action`), with the status that it sets.
INSTALLATIONS: Mapping[str, ReferenceStatus] = {
    "add": ReferenceStatus.ACTIVE,
    "add-upgrade": ReferenceStatus.ACTIVE,
    "remove": ReferenceStatus.UNINSTALLED,
    "remove-upgrade": ReferenceStatus.UNINSTALLED,
}
#: Events of a team and of a channel (`channelData.eventType`), with the status that they set.
TEAM_EVENTS: dict[str, ReferenceStatus | None] = {
    "teamRenamed": None,
    "teamArchived": None,
    "teamUnarchived": None,
    "teamRestored": ReferenceStatus.ACTIVE,
    "teamDeleted": ReferenceStatus.DELETED,
    "teamHardDeleted": ReferenceStatus.DELETED,
}
CHANNEL_EVENTS: dict[str, ReferenceStatus | None] = {
    "channelRenamed": None,
    "channelCreated": ReferenceStatus.ACTIVE,
    "channelRestored": ReferenceStatus.ACTIVE,
    "channelDeleted": ReferenceStatus.DELETED,
}

_THREAD = ";messageid="
_LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,3}")

#: Statuses that retire a row: an activity that sets one creates no row.
ENDS = (ReferenceStatus.UNINSTALLED, ReferenceStatus.DELETED)


@dataclass(frozen=True, slots=True)
class Change:
    """One row to refresh: `seen` maps fields of a reference to what the activity shows, "" for nothing."""

    kind: ReferenceKind
    id: str
    seen: Mapping[str, str]
    status: ReferenceStatus | None = None

    @property
    def create(self) -> bool:
        return self.status not in ENDS


def event_time(incoming: Incoming, now: datetime) -> datetime:
    """When it happened, in UTC: as Teams says, but never later than `now`."""
    return min(incoming.timestamp or now, now)


def changes(incoming: Incoming, tenant: str) -> list[Change]:
    """The rows that an activity of `tenant` changes: at most one change a row."""
    status = _status(incoming)
    where = scope(incoming)
    if where == "personal":
        rows = _personal(incoming, status)
    elif where == "groupChat":
        rows = _group_chat(incoming, status)
    elif incoming.channel_data.event_type in TEAM_EVENTS | CHANNEL_EVENTS:
        rows = _team_event(incoming)
    else:
        rows = _channels(incoming, status)
    seen = {"service_url": incoming.service_url}
    return [Change(ReferenceKind.TENANT, tenant, seen), *(row for row in rows if row.id)]


def person_of(incoming: Incoming) -> Account | None:
    """The person of a personal chat, where the activity names them."""
    # In some events only the list of members carries the person's object id.
    accounts = chain([incoming.sender], incoming.members_added, incoming.members_removed)
    return next((account for account in accounts if _is_person(account, incoming)), None)


def is_install(incoming: Incoming) -> bool:
    """Whether the bot was added to a chat or team, other than by an update of the app."""
    if incoming.type == "installationUpdate":
        return incoming.action == "add"
    return incoming.type == "conversationUpdate" and _bot_is_in(incoming.members_added, incoming)


def _personal(incoming: Incoming, status: ReferenceStatus | None) -> Iterator[Change]:
    person = person_of(incoming)
    if person is None:
        return
    user = person.aad_object_id.lower()
    yield Change(ReferenceKind.USER, user, _who(person, incoming) | _chat(incoming, "personal"), status)
    if status not in ENDS:
        yield Change(ReferenceKind.CONVERSATION, incoming.conversation.id, {"user": user})


def _group_chat(incoming: Incoming, status: ReferenceStatus | None) -> Iterator[Change]:
    seen = _chat(incoming, "groupChat") | {"name": _name(incoming.conversation.name)}
    yield Change(ReferenceKind.CONVERSATION, incoming.conversation.id, seen, status)
    if status not in ENDS:
        yield from _people(incoming)


def _channels(incoming: Incoming, status: ReferenceStatus | None) -> Iterator[Change]:
    data = incoming.channel_data
    yield from _team(incoming, status)
    if status in ENDS and data.team.id:
        return
    channels = {incoming.conversation.id.partition(_THREAD)[0]}
    if _bot_is_in(incoming.members_added, incoming) or incoming.type == "installationUpdate":
        # The General channel has the id of its team; whoever installs chooses one of the channels.
        channels |= {data.team.id, data.settings.selected_channel.id}
    for channel in sorted(channels):
        yield _channel(incoming, channel, status)
    if status not in ENDS:
        yield from _people(incoming)


def _team_event(incoming: Incoming) -> Iterator[Change]:
    event = incoming.channel_data.event_type
    yield from _team(incoming, TEAM_EVENTS.get(event))
    if event in CHANNEL_EVENTS:
        yield _channel(incoming, incoming.channel_data.channel.id, CHANNEL_EVENTS[event])


def _team(incoming: Incoming, status: ReferenceStatus | None) -> Iterator[Change]:
    team = incoming.channel_data.team
    group = team.aad_group_id.lower()
    yield Change(ReferenceKind.TEAM, team.id, _here(incoming) | {"name": _name(team.name), "group": group}, status)
    if team.id and status not in ENDS:
        yield Change(ReferenceKind.TEAM, group, {"team": team.id})


def _channel(incoming: Incoming, channel: str, status: ReferenceStatus | None) -> Change:
    data = incoming.channel_data
    name = next((named.name for named in (data.channel, data.settings.selected_channel) if named.id == channel), "")
    seen = _chat(incoming, "channel") | {"conversation_id": channel, "team": data.team.id, "name": _name(name)}
    return Change(ReferenceKind.CONVERSATION, channel, seen, status)


def _people(incoming: Incoming) -> Iterator[Change]:
    accounts = {
        account.aad_object_id.lower(): account
        for account in [*incoming.members_added, incoming.sender]
        if _is_person(account, incoming)
    }
    for user, account in accounts.items():
        yield Change(ReferenceKind.USER, user, _who(account, incoming) | {"service_url": incoming.service_url})


def _status(incoming: Incoming) -> ReferenceStatus | None:
    if incoming.type == "message":
        return ReferenceStatus.ACTIVE
    if incoming.type == "installationUpdate":
        return INSTALLATIONS.get(incoming.action)
    if incoming.type == "conversationUpdate" and _bot_is_in(incoming.members_added, incoming):
        return ReferenceStatus.ACTIVE
    if incoming.type == "conversationUpdate" and _bot_is_in(incoming.members_removed, incoming):
        return ReferenceStatus.UNINSTALLED
    return None


def _bot_is_in(accounts: list[Account], incoming: Incoming) -> bool:
    return bool(incoming.recipient.id) and any(account.id == incoming.recipient.id for account in accounts)


def _is_person(account: Account, incoming: Incoming) -> bool:
    return bool(account.aad_object_id) and account.id != incoming.recipient.id and not account.id.startswith("28:")


def scope(incoming: Incoming) -> str:
    """Where it happened: `personal`, `groupChat` or `channel`."""
    said = incoming.conversation.conversation_type
    if said in ("personal", "groupChat", "channel"):
        return said
    if incoming.channel_data.team.id:
        return "channel"
    is_group = incoming.conversation.is_group or incoming.conversation.id.startswith("19:")
    return "groupChat" if is_group else "personal"


def _here(incoming: Incoming) -> dict[str, str]:
    return {"service_url": incoming.service_url, "bot_id": incoming.recipient.id}


def _chat(incoming: Incoming, kind: str) -> dict[str, str]:
    return _here(incoming) | {"conversation_id": incoming.conversation.id, "conversation_type": kind}


def _who(account: Account, incoming: Incoming) -> dict[str, str]:
    seen = client(incoming) if account is incoming.sender else {}
    return seen | {"user_id": account.id, "name": _name(account.name)}


def client(incoming: Incoming) -> dict[str, str]:
    """Locale and IANA time zone of the sender's Teams client, where they make sense."""
    info = next((entity for entity in incoming.entities if entity.get("type") == "clientInfo"), {})
    locales = (incoming.locale, info.get("locale"))
    zones = (incoming.local_timezone, info.get("timezone"))
    return {
        "locale": next((text for text in locales if isinstance(text, str) and _LOCALE.fullmatch(text)), ""),
        "time_zone": next((found for text in zones if isinstance(text, str) and (found := _zone(text))), ""),
    }


@lru_cache(maxsize=1024)
def _zone(text: str) -> str:
    """The IANA name that a client means, "" for none."""
    return find_zone(text) or "" if len(text) <= MAX_ZONE_CHARS else ""


def _name(text: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:MAX_NAME_CHARS]
