"""Compute, from one activity, which rows of table Conversations change, and how. Pure.

- Every activity refreshes the tenant's row with its serviceUrl.
- Personal chat: an install, or any other activity, creates the person's row with the chat, and an alias from the chat
  to the person. An uninstall deactivates the person's row.
- Group chat and channel: the activity refreshes the row of the chat, or of the channel and its team. People who write
  or are added get a row without a chat, so that the id of their personal chat is never changed.
- Team: its row says, for all of its channels, whether the bot is installed and the team exists. Archiving changes
  nothing: Teams decides at each send whether a bot may post in an archived team.
- An install, an uninstall and the deletion of a team or channel set the status. A message proves that the bot is
  installed and sets it to active. Other activities leave it as it is. A change that deactivates a row never creates it.
- A shared or private channel may have the bot while its team does not: being added there or removed from there changes
  only that channel, and welcomes nobody.
- In a shared channel, people of other tenants write: they get no row.
- Graph names a personal chat by both ids, `19:<object id>_<app id>@unq.gbl.spaces`. The connector does not know that
  name, so it is not stored as the chat.
- People who are removed from a team or chat keep their rows: a row describes a person, not their memberships.

Activities arrive repeated, out of order and incomplete. So rows are keyed by Teams' ids, a missing value leaves the
stored value as it is, and storage compares the times of two events before it changes a status.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import chain

from messages.activity.schema import Account, Activity
from shared.conversation_ids import OBJECT_ID, channel_of
from shared.states import ReferenceKind, ReferenceStatus
from shared.time.zone_names import find_zone

#: Longest name that is stored, in characters.
MAX_NAME_CHARS = 200

#: Longest time zone name that is looked up, in characters.
MAX_ZONE_CHARS = 64

#: The status that each `action` of an `installationUpdate` sets.
INSTALLATION_STATUSES: Mapping[str, ReferenceStatus] = {
    "add": ReferenceStatus.ACTIVE,
    "add-upgrade": ReferenceStatus.ACTIVE,
    "remove": ReferenceStatus.UNINSTALLED,
    "remove-upgrade": ReferenceStatus.UNINSTALLED,
}
#: The status that each event (`channelData.eventType`) of a team, and of a channel, sets; None for no change.
TEAM_EVENT_STATUSES: dict[str, ReferenceStatus | None] = {
    "teamRenamed": None,
    "teamArchived": None,
    "teamUnarchived": None,
    "teamRestored": ReferenceStatus.ACTIVE,
    "teamDeleted": ReferenceStatus.DELETED,
    "teamHardDeleted": ReferenceStatus.DELETED,
}
CHANNEL_EVENT_STATUSES: dict[str, ReferenceStatus | None] = {
    "channelRenamed": None,
    "channelCreated": ReferenceStatus.ACTIVE,
    "channelRestored": ReferenceStatus.ACTIVE,
    "channelDeleted": ReferenceStatus.DELETED,
}
#: Statuses that deactivate a row: a change that sets one of them never creates the row.
INACTIVE_STATUSES = (ReferenceStatus.UNINSTALLED, ReferenceStatus.DELETED)

#: A personal chat as Graph names it.
_GRAPH_CHAT = re.compile(r"19:([0-9a-f-]{36})_([0-9a-f-]{36})@unq\.gbl\.spaces", re.IGNORECASE)
_LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,3}")


@dataclass(frozen=True, slots=True)
class ReferenceChange:
    """A change of one row: `observed` maps columns to the values in the activity, "" for a value it does not have."""

    kind: ReferenceKind
    id: str
    observed: Mapping[str, str]
    status: ReferenceStatus | None = None

    @property
    def is_alias(self) -> bool:
        """Whether the row only names the person of a personal chat."""
        return self.kind is ReferenceKind.CONVERSATION and "user" in self.observed

    @property
    def creates_row(self) -> bool:
        return self.status not in INACTIVE_STATUSES


def get_occurrence_time(activity: Activity, now: datetime) -> datetime:
    """Return when the activity happened (UTC): its `timestamp`, but never later than `now`."""
    return min(activity.timestamp or now, now)


def find_reference_changes(activity: Activity, tenant: str) -> list[ReferenceChange]:
    """Return the changes that an activity of `tenant` makes, at most one for each row."""
    status = _status(activity)
    scope = scope_of(activity)
    if scope == "personal":
        changes = _personal_changes(activity, status)
    elif scope == "groupChat":
        changes = _group_chat_changes(activity, status)
    elif _is_about_one_channel(activity):
        changes = iter([_channel_change(activity, activity.channel_data.channel.id, status)])
    elif activity.channel_data.event_type in TEAM_EVENT_STATUSES | CHANNEL_EVENT_STATUSES:
        changes = _team_event_changes(activity)
    else:
        changes = _channel_changes(activity, status)
    tenant_change = ReferenceChange(ReferenceKind.TENANT, tenant, {"service_url": activity.service_url})
    return [tenant_change, *(change for change in changes if change.id)]


def person_of(activity: Activity) -> Account | None:
    """Return the person of a personal chat, or None if the activity does not name them."""
    # In some events only the list of members has the person's object id.
    accounts = chain([activity.sender], activity.members_added, activity.members_removed)
    person = next((account for account in accounts if _is_person(account, activity)), None)
    if person is None and (chat := _GRAPH_CHAT.fullmatch(activity.conversation.id)):
        bot = activity.recipient.id.removeprefix("28:").lower()
        person = Account.model_validate(
            {"aadObjectId": next((each for each in chat.groups() if each.lower() != bot), "")}
        )
    return person


def is_install(activity: Activity) -> bool:
    """Return whether the bot was added to a chat or team. An update of the app is not an install."""
    if _is_about_one_channel(activity):
        return False
    if activity.type == "installationUpdate":
        return activity.action == "add"
    return activity.type == "conversationUpdate" and _includes_bot(activity.members_added, activity)


def is_update(activity: Activity) -> bool:
    """Return whether the app was updated where the bot stays: that installs nothing."""
    return activity.type == "installationUpdate" and activity.action == "add-upgrade"


def scope_of(activity: Activity) -> str:
    """Return where the activity happened: `personal`, `groupChat` or `channel`."""
    conversation_type = activity.conversation.conversation_type
    if not conversation_type and _GRAPH_CHAT.fullmatch(activity.conversation.id):
        return "personal"
    if conversation_type in ("personal", "groupChat", "channel"):
        return conversation_type
    if activity.channel_data.team.id:
        return "channel"
    is_group = activity.conversation.is_group or activity.conversation.id.startswith("19:")
    return "groupChat" if is_group else "personal"


def client_settings_of(activity: Activity) -> dict[str, str]:
    """Return `locale` and `time_zone` (IANA) of the sender's Teams client, each "" if missing or not plausible."""
    info = next((entity for entity in activity.entities if entity.get("type") == "clientInfo"), {})
    locales = (activity.locale, info.get("locale"))
    zones = (activity.local_timezone, info.get("timezone"))
    return {
        "locale": next((text for text in locales if isinstance(text, str) and _LOCALE.fullmatch(text)), ""),
        "time_zone": next((zone for text in zones if isinstance(text, str) and (zone := _find_zone(text))), ""),
    }


def _personal_changes(activity: Activity, status: ReferenceStatus | None) -> Iterator[ReferenceChange]:
    person = person_of(activity)
    if person is None:
        return
    user = person.aad_object_id.lower()
    observed = _observe_person(person, activity) | _observe_chat(activity, "personal")
    yield ReferenceChange(ReferenceKind.USER, user, observed, status)
    if status not in INACTIVE_STATUSES:
        yield ReferenceChange(ReferenceKind.CONVERSATION, activity.conversation.id, {"user": user})


def _group_chat_changes(activity: Activity, status: ReferenceStatus | None) -> Iterator[ReferenceChange]:
    observed = _observe_chat(activity, "groupChat") | {"name": _clean_name(activity.conversation.name)}
    yield ReferenceChange(ReferenceKind.CONVERSATION, activity.conversation.id, observed, status)
    if status not in INACTIVE_STATUSES:
        yield from _people_changes(activity)


def _channel_changes(activity: Activity, status: ReferenceStatus | None) -> Iterator[ReferenceChange]:
    data = activity.channel_data
    yield from _team_changes(activity, status)
    if status in INACTIVE_STATUSES and data.team.id:
        return
    channels = {channel_of(activity.conversation.id)}
    if _includes_bot(activity.members_added, activity) or activity.type == "installationUpdate":
        # The General channel has the id of its team; the person who installs the bot selects one of the channels.
        channels |= {data.team.id, data.settings.selected_channel.id}
    for channel in sorted(channels):
        yield _channel_change(activity, channel, status)
    if status not in INACTIVE_STATUSES:
        yield from _people_changes(activity)


def _is_about_one_channel(activity: Activity) -> bool:
    """Return whether the bot was added to, or removed from, a channel that has members of its own."""
    data = activity.channel_data
    is_membership = activity.type == "installationUpdate" or (
        activity.type == "conversationUpdate"
        and _includes_bot([*activity.members_added, *activity.members_removed], activity)
    )
    return is_membership and data.channel.id not in ("", data.team.id, data.settings.selected_channel.id)


def _team_event_changes(activity: Activity) -> Iterator[ReferenceChange]:
    event = activity.channel_data.event_type
    yield from _team_changes(activity, TEAM_EVENT_STATUSES.get(event))
    if event in CHANNEL_EVENT_STATUSES:
        yield _channel_change(activity, activity.channel_data.channel.id, CHANNEL_EVENT_STATUSES[event])


def _team_changes(activity: Activity, status: ReferenceStatus | None) -> Iterator[ReferenceChange]:
    team = activity.channel_data.team
    group = team.aad_group_id.lower()
    observed = _observe_bot(activity) | {"name": _clean_name(team.name), "group": group}
    yield ReferenceChange(ReferenceKind.TEAM, team.id, observed, status)
    if team.id and status not in INACTIVE_STATUSES:
        yield ReferenceChange(ReferenceKind.TEAM, group, {"team": team.id})


def _channel_change(activity: Activity, channel: str, status: ReferenceStatus | None) -> ReferenceChange:
    data = activity.channel_data
    name = next((named.name for named in (data.channel, data.settings.selected_channel) if named.id == channel), "")
    observed = _observe_chat(activity, "channel") | {
        "conversation_id": channel, "team": data.team.id, "name": _clean_name(name),
    }  # fmt: skip
    return ReferenceChange(ReferenceKind.CONVERSATION, channel, observed, status)


def _people_changes(activity: Activity) -> Iterator[ReferenceChange]:
    if activity.is_from_another_tenant:
        return
    people = {
        account.aad_object_id.lower(): account
        for account in [*activity.members_added, activity.sender]
        if _is_person(account, activity)
    }
    for user, account in people.items():
        observed = _observe_person(account, activity) | {"service_url": activity.service_url}
        yield ReferenceChange(ReferenceKind.USER, user, observed)


def _status(activity: Activity) -> ReferenceStatus | None:
    if activity.type == "message":
        return ReferenceStatus.ACTIVE
    if activity.type == "installationUpdate":
        return INSTALLATION_STATUSES.get(activity.action)
    if activity.type == "conversationUpdate" and _includes_bot(activity.members_added, activity):
        return ReferenceStatus.ACTIVE
    if activity.type == "conversationUpdate" and _includes_bot(activity.members_removed, activity):
        return ReferenceStatus.UNINSTALLED
    return None


def _includes_bot(accounts: list[Account], activity: Activity) -> bool:
    return bool(activity.recipient.id) and any(account.id == activity.recipient.id for account in accounts)


def _is_person(account: Account, activity: Activity) -> bool:
    is_bot = account.id == activity.recipient.id or account.id.startswith("28:")
    return OBJECT_ID.fullmatch(account.aad_object_id) is not None and not is_bot


def _observe_bot(activity: Activity) -> dict[str, str]:
    return {"service_url": activity.service_url, "bot_id": activity.recipient.id}


def _observe_chat(activity: Activity, conversation_type: str) -> dict[str, str]:
    identifier = activity.conversation.id
    chat = {
        "conversation_id": "" if _GRAPH_CHAT.fullmatch(identifier) else identifier,
        "conversation_type": conversation_type,
    }
    return _observe_bot(activity) | chat


def _observe_person(account: Account, activity: Activity) -> dict[str, str]:
    settings = client_settings_of(activity) if account is activity.sender else {}
    return settings | {"user_id": account.id, "name": _clean_name(account.name)}


@lru_cache(maxsize=1024)
def _find_zone(text: str) -> str:
    """Return the IANA name of a client's time zone, "" if there is none."""
    return find_zone(text) or "" if len(text) <= MAX_ZONE_CHARS else ""


def _clean_name(name: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in name)
    return " ".join(printable.split())[:MAX_NAME_CHARS]
