from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from messages.activity.references import MAX_NAME_CHARS, find_reference_changes, get_occurrence_time
from messages.activity.schema import Activity
from shared.states import ReferenceKind, ReferenceStatus
from tests.messages.conftest import (
    ADA,
    BEN,
    BOT,
    CHANNEL,
    CHAT,
    GROUP,
    PERSONAL,
    SERVICE_URL,
    TEAM,
    TENANT,
    activity_json,
    channel_fields,
    group_chat_fields,
    message_json,
)

Rows = dict[tuple[ReferenceKind, str], tuple[dict[str, str], ReferenceStatus | None]]

THREAD = f"{CHANNEL};messageid=1481567603816"
BOT_DATA = {"service_url": SERVICE_URL, "bot_id": BOT}
PERSONAL_CHAT = BOT_DATA | {"conversation_id": PERSONAL, "conversation_type": "personal"}
GROUP_CHAT = BOT_DATA | {"conversation_id": CHAT, "conversation_type": "groupChat", "name": "Release crew"}
CLIENT = {"name": "Ada", "locale": "de-DE", "time_zone": "Europe/Berlin"}
ADA_DATA = {"user_id": "29:ada", "service_url": SERVICE_URL}
BEN_DATA = {"user_id": "29:ben", "service_url": SERVICE_URL}

ADA_ROW, BEN_ROW = (ReferenceKind.USER, ADA), (ReferenceKind.USER, BEN)
ALIAS = (ReferenceKind.CONVERSATION, PERSONAL)
TEAM_ROW, GROUP_ROW = (ReferenceKind.TEAM, TEAM), (ReferenceKind.TEAM, GROUP)
TEAM_DATA = BOT_DATA | {"name": "Platform", "group": GROUP}
BEN_ACCOUNT = {"id": "29:ben", "aadObjectId": BEN}


def changed_rows(body: Mapping[str, Any]) -> Rows:
    """Return the find_reference_changes of an activity, without that of the tenant's row and without empty values."""
    changes = find_reference_changes(Activity.model_validate(body), TENANT)
    tenant, *others = changes
    assert (tenant.kind, tenant.id, tenant.observed, tenant.status) == (
        ReferenceKind.TENANT, TENANT, {"service_url": body.get("serviceUrl", "")}, None,
    )  # fmt: skip
    assert len({(change.kind, change.id) for change in changes}) == len(changes)
    return {
        (change.kind, change.id): ({name: value for name, value in change.observed.items() if value}, change.status)
        for change in others
    }


def channel_data(channel: str, **more: str) -> dict[str, str]:
    return BOT_DATA | {"conversation_id": channel, "conversation_type": "channel", "team": TEAM} | more


def team_event(event: str, **data: Any) -> dict[str, Any]:
    return activity_json("conversationUpdate", **channel_fields(eventType=event, **data))


INSTALLED: Rows = {
    ADA_ROW: (PERSONAL_CHAT | {"user_id": "29:ada"}, ReferenceStatus.ACTIVE),
    ALIAS: ({"user": ADA}, None),
}
UNINSTALLED: Rows = {ADA_ROW: (PERSONAL_CHAT | {"user_id": "29:ada"}, ReferenceStatus.UNINSTALLED)}
TEAM_INSTALLED: Rows = {
    TEAM_ROW: (TEAM_DATA, ReferenceStatus.ACTIVE),
    GROUP_ROW: ({"team": TEAM}, None),
    (ReferenceKind.CONVERSATION, TEAM): (channel_data(TEAM), ReferenceStatus.ACTIVE),
    ADA_ROW: (ADA_DATA, None),
}
TEAM_UNINSTALLED: Rows = {TEAM_ROW: (TEAM_DATA, ReferenceStatus.UNINSTALLED)}

CASES: dict[str, tuple[dict[str, Any], Rows]] = {
    "personal install creates the person and the alias of the chat": (
        activity_json("installationUpdate", action="add"),
        INSTALLED,
    ),
    "personal upgrade does the same": (activity_json("installationUpdate", action="add-upgrade"), INSTALLED),
    "bot as a new member does the same": (activity_json("conversationUpdate", membersAdded=[{"id": BOT}]), INSTALLED),
    "install with the locale of the client": (
        activity_json("installationUpdate", action="add", entities=[{"type": "clientInfo", "locale": "en-GB"}]),
        INSTALLED | {ADA_ROW: (PERSONAL_CHAT | {"user_id": "29:ada", "locale": "en-GB"}, ReferenceStatus.ACTIVE)},
    ),
    "object id is stored in lower case": (
        activity_json("installationUpdate", action="add", **{"from": {"id": "29:ada", "aadObjectId": ADA.upper()}}),
        INSTALLED,
    ),
    "person is found among the members if the sender has no object id": (
        activity_json(
            "conversationUpdate",
            membersAdded=[{"id": BOT}, {"id": "29:ada", "aadObjectId": ADA}],
            **{"from": {"id": "29:ada"}},
        ),
        INSTALLED,
    ),
    "bot that adds itself is not a person": (
        activity_json(
            "conversationUpdate",
            membersAdded=[{"id": BOT}],
            **{"from": {"id": BOT, "aadObjectId": BEN}},
        ),
        {},
    ),
    "person without an object id find_reference_changes the tenant only": (
        activity_json("installationUpdate", action="add", **{"from": {"id": "29:ada"}}),
        {},
    ),
    "personal uninstall deactivates the person": (activity_json("installationUpdate", action="remove"), UNINSTALLED),
    "remove-upgrade does the same": (activity_json("installationUpdate", action="remove-upgrade"), UNINSTALLED),
    "bot as a removed member does the same": (
        activity_json("conversationUpdate", membersRemoved=[{"id": BOT}]),
        UNINSTALLED,
    ),
    "personal message activates the person and has the settings of the client": (
        message_json(),
        INSTALLED | {ADA_ROW: (PERSONAL_CHAT | CLIENT | {"user_id": "29:ada"}, ReferenceStatus.ACTIVE)},
    ),
    "other activity refreshes without a status": (
        activity_json("messageReaction", reactionsAdded=[{"type": "like"}]),
        INSTALLED | {ADA_ROW: (PERSONAL_CHAT | {"user_id": "29:ada"}, None)},
    ),
    "activity of unknown type does the same": (
        activity_json("somethingNew"),
        INSTALLED | {ADA_ROW: (PERSONAL_CHAT | {"user_id": "29:ada"}, None)},
    ),
    "installation update of unknown action does the same": (
        activity_json("installationUpdate", action="pause"),
        INSTALLED | {ADA_ROW: (PERSONAL_CHAT | {"user_id": "29:ada"}, None)},
    ),
    "install in a group chat creates the chat, and the person without a chat": (
        activity_json("installationUpdate", action="add", **group_chat_fields()),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, ReferenceStatus.ACTIVE), ADA_ROW: (ADA_DATA, None)},
    ),
    "uninstall from a group chat deactivates the chat": (
        activity_json("installationUpdate", action="remove", **group_chat_fields()),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, ReferenceStatus.UNINSTALLED)},
    ),
    "message in a group chat does not change the sender's own chat": (
        message_json(**group_chat_fields()),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, ReferenceStatus.ACTIVE), ADA_ROW: (ADA_DATA | CLIENT, None)},
    ),
    "conversation without a type is a group chat if isGroup says so": (
        message_json(conversation={"isGroup": True, "tenantId": TENANT, "id": CHAT, "name": "Release crew"}),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, ReferenceStatus.ACTIVE), ADA_ROW: (ADA_DATA | CLIENT, None)},
    ),
    "conversation without a type is a group chat if its id says so": (
        message_json(conversation={"tenantId": TENANT, "id": CHAT, "name": "Release crew"}),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, ReferenceStatus.ACTIVE), ADA_ROW: (ADA_DATA | CLIENT, None)},
    ),
    "people added to a group chat get a row": (
        activity_json("conversationUpdate", membersAdded=[BEN_ACCOUNT | {"name": "Ben"}], **group_chat_fields()),
        {
            (ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, None),
            ADA_ROW: (ADA_DATA, None),
            BEN_ROW: (BEN_DATA | {"name": "Ben"}, None),
        },
    ),
    "people removed from a group chat keep their changed_rows": (
        activity_json("conversationUpdate", membersRemoved=[BEN_ACCOUNT], **group_chat_fields()),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, None), ADA_ROW: (ADA_DATA, None)},
    ),
    "bot added to a team creates team, alias and General channel": (
        activity_json("conversationUpdate", membersAdded=[{"id": BOT}], **channel_fields(eventType="teamMemberAdded")),
        TEAM_INSTALLED,
    ),
    "install in a team creates the selected channel too": (
        activity_json(
            "installationUpdate",
            action="add",
            **channel_fields(settings={"selectedChannel": {"id": CHANNEL, "name": "Deployments"}}),
        ),
        TEAM_INSTALLED
        | {(ReferenceKind.CONVERSATION, CHANNEL): (channel_data(CHANNEL, name="Deployments"), ReferenceStatus.ACTIVE)},
    ),
    "install in a channel creates the General channel too": (
        activity_json("installationUpdate", action="add", **channel_fields(CHANNEL)),
        TEAM_INSTALLED | {(ReferenceKind.CONVERSATION, CHANNEL): (channel_data(CHANNEL), ReferenceStatus.ACTIVE)},
    ),
    "group id is stored in lower case": (
        activity_json(
            "installationUpdate",
            action="add",
            **channel_fields(team={"id": TEAM, "name": "Platform", "aadGroupId": GROUP.upper()}),
        ),
        TEAM_INSTALLED,
    ),
    "bot removed from a team deactivates the team only": (
        activity_json(
            "conversationUpdate", membersRemoved=[{"id": BOT}], **channel_fields(eventType="teamMemberRemoved")
        ),
        TEAM_UNINSTALLED,
    ),
    "uninstall from a team does the same": (
        activity_json("installationUpdate", action="remove", **channel_fields(CHANNEL)),
        TEAM_UNINSTALLED,
    ),
    "uninstall without a team deactivates the channel": (
        activity_json("installationUpdate", action="remove", **channel_fields(CHANNEL) | {"channelData": None}),
        {(ReferenceKind.CONVERSATION, CHANNEL): (channel_data(CHANNEL) | {"team": ""}, ReferenceStatus.UNINSTALLED)},
    ),
    "message in a channel refreshes team, channel and person": (
        message_json(**channel_fields(THREAD, channel={"id": CHANNEL, "name": "Deployments"})),
        {
            TEAM_ROW: (TEAM_DATA, ReferenceStatus.ACTIVE),
            GROUP_ROW: ({"team": TEAM}, None),
            (ReferenceKind.CONVERSATION, CHANNEL): (channel_data(CHANNEL, name="Deployments"), ReferenceStatus.ACTIVE),
            ADA_ROW: (ADA_DATA | CLIENT, None),
        },
    ),
    "message in a channel without team and group": (
        message_json(**channel_fields(THREAD) | {"channelData": {"tenant": {"id": TENANT}}}),
        {
            (ReferenceKind.CONVERSATION, CHANNEL): (channel_data(CHANNEL) | {"team": ""}, ReferenceStatus.ACTIVE),
            ADA_ROW: (ADA_DATA | CLIENT, None),
        },
    ),
    "people added to a team get a row": (
        activity_json("conversationUpdate", membersAdded=[BEN_ACCOUNT], **channel_fields(eventType="teamMemberAdded")),
        {
            TEAM_ROW: (TEAM_DATA, None),
            GROUP_ROW: ({"team": TEAM}, None),
            (ReferenceKind.CONVERSATION, TEAM): (channel_data(TEAM), None),
            ADA_ROW: (ADA_DATA, None),
            BEN_ROW: (BEN_DATA, None),
        },
    ),
    "new members without an object id get no row": (
        activity_json("conversationUpdate", membersAdded=[{"id": "29:ben"}, {"id": "28:other"}], **group_chat_fields()),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, None), ADA_ROW: (ADA_DATA, None)},
    ),
    **{
        f"{event} find_reference_changes the team": (
            team_event(event),
            {TEAM_ROW: (TEAM_DATA, status), GROUP_ROW: ({"team": TEAM}, None)},
        )
        for event, status in (
            ("teamRenamed", None),
            ("teamArchived", None),
            ("teamUnarchived", None),
            ("teamRestored", ReferenceStatus.ACTIVE),
        )
    },
    **{
        f"{event} deactivates the team": (team_event(event), {TEAM_ROW: (TEAM_DATA, ReferenceStatus.DELETED)})
        for event in ("teamDeleted", "teamHardDeleted")
    },
    **{
        f"{event} find_reference_changes the channel, and refreshes the team without a status": (
            team_event(event, channel={"id": CHANNEL, "name": "Deployments"}),
            {
                TEAM_ROW: (TEAM_DATA, None),
                GROUP_ROW: ({"team": TEAM}, None),
                (ReferenceKind.CONVERSATION, CHANNEL): (channel_data(CHANNEL, name="Deployments"), status),
            },
        )
        for event, status in (
            ("channelCreated", ReferenceStatus.ACTIVE),
            ("channelRestored", ReferenceStatus.ACTIVE),
            ("channelRenamed", None),
            ("channelDeleted", ReferenceStatus.DELETED),
        )
    },
}


@pytest.mark.parametrize("name", CASES)
def test_activity_changes_these_rows(name: str) -> None:
    body, expected = CASES[name]
    assert changed_rows(body) == {
        key: ({column: value for column, value in observed.items() if value}, status)
        for key, (observed, status) in expected.items()
    }


def test_change_that_deactivates_a_row_does_not_create_it() -> None:
    for name, (body, _) in CASES.items():
        for change in find_reference_changes(Activity.model_validate(body), TENANT):
            is_inactive = change.status in (ReferenceStatus.UNINSTALLED, ReferenceStatus.DELETED)
            assert change.creates_row != is_inactive, name


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"localTimezone": "America/Argentina/Buenos_Aires"}, "America/Argentina/Buenos_Aires"),
        ({"localTimezone": "Etc/GMT+5"}, "Etc/GMT+5"),
        ({"localTimezone": None}, "Europe/Berlin"),
        ({"localTimezone": "W. Europe Standard Time"}, "Europe/Berlin"),
        ({"localTimezone": "Customized Time Zone", "entities": None}, ""),
        ({"localTimezone": "tzone://Microsoft/Custom"}, "Europe/Berlin"),  # of the other source
        ({"localTimezone": "Europe/Atlantis", "entities": None}, ""),
        ({"localTimezone": "../../etc/passwd", "entities": None}, ""),
        ({"localTimezone": "/etc/localtime", "entities": None}, ""),
        ({"localTimezone": "Europe", "entities": None}, ""),
        ({"localTimezone": None, "entities": [{"type": "clientInfo", "timezone": 5}]}, ""),
        ({"localTimezone": None, "entities": [{"type": "mention", "timezone": "Asia/Tokyo"}]}, ""),
    ],
)
def test_only_known_time_zones_are_stored(parts: dict[str, Any], expected: str) -> None:
    assert changed_rows(message_json(**parts))[ADA_ROW][0].get("time_zone", "") == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"locale": "zh-Hant-TW"}, "zh-Hant-TW"),
        ({"locale": None}, "de-DE"),
        ({"locale": "<script>"}, "de-DE"),
        ({"locale": "x" * 50, "entities": [{"type": "clientInfo", "locale": ["de"]}]}, ""),
    ],
)
def test_only_plausible_locales_are_stored(parts: dict[str, Any], expected: str) -> None:
    assert changed_rows(message_json(**parts))[ADA_ROW][0].get("locale", "") == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Ada " * 100, ("Ada " * 100)[:MAX_NAME_CHARS].strip()), (" A\x00d\na\u202e ", "A d a"), ("Zoë 李", "Zoë 李")],
)
def test_names_are_short_and_printable(name: str, expected: str) -> None:
    sender = {"id": "29:ada", "aadObjectId": ADA, "name": name}
    assert changed_rows(message_json(**{"from": sender}))[ADA_ROW][0]["name"].strip() == expected


NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("2026-11-23T11:59:59.1234567Z", NOW - timedelta(microseconds=876_544)),
        ("2026-11-23T12:30:00+01:00", NOW - timedelta(minutes=30)),
        ("2026-11-23T12:00:01Z", NOW),
        ("9999-12-31T23:59:59Z", NOW),
        ("2026-11-23T11:00:00", NOW),
        (None, NOW),
    ],
)
def test_activity_is_never_later_than_now(timestamp: str | None, expected: datetime) -> None:
    at = get_occurrence_time(Activity.model_validate(activity_json("message", timestamp=timestamp)), NOW)
    assert at == expected
    assert at.tzinfo == timezone.utc  # noqa: UP017 (times are compared as text: all need the same zone)
