from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from messages.activity.references import MAX_NAME_CHARS, changes, event_time
from messages.activity.schema import Incoming
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
    activity,
    in_chat,
    in_team,
    message,
)

Rows = dict[tuple[ReferenceKind, str], tuple[dict[str, str], ReferenceStatus | None]]

THREAD = f"{CHANNEL};messageid=1481567603816"
HERE = {"service_url": SERVICE_URL, "bot_id": BOT}
PERSONAL_CHAT = HERE | {"conversation_id": PERSONAL, "conversation_type": "personal"}
GROUP_CHAT = HERE | {"conversation_id": CHAT, "conversation_type": "groupChat", "name": "Release crew"}
CLIENT = {"name": "Ada", "locale": "de-DE", "time_zone": "Europe/Berlin"}
ADA_KNOWN = {"user_id": "29:ada", "service_url": SERVICE_URL}
BEN_KNOWN = {"user_id": "29:ben", "service_url": SERVICE_URL}

ADA_ROW, BEN_ROW = (ReferenceKind.USER, ADA), (ReferenceKind.USER, BEN)
ALIAS = (ReferenceKind.CONVERSATION, PERSONAL)
TEAM_ROW, GROUP_ROW = (ReferenceKind.TEAM, TEAM), (ReferenceKind.TEAM, GROUP)
TEAM_SEEN = HERE | {"name": "Platform", "group": GROUP}
BEN_ACCOUNT = {"id": "29:ben", "aadObjectId": BEN}


def rows(body: Mapping[str, Any]) -> Rows:
    """What an activity changes but for the tenant's row, without what it does not show."""
    found = changes(Incoming.model_validate(body), TENANT)
    tenant, *others = found
    assert (tenant.kind, tenant.id, tenant.seen, tenant.status) == (
        ReferenceKind.TENANT, TENANT, {"service_url": body.get("serviceUrl", "")}, None,
    )  # fmt: skip
    assert len({(change.kind, change.id) for change in found}) == len(found)
    return {
        (change.kind, change.id): ({name: value for name, value in change.seen.items() if value}, change.status)
        for change in others
    }


def channel_seen(channel: str, **more: str) -> dict[str, str]:
    return HERE | {"conversation_id": channel, "conversation_type": "channel", "team": TEAM} | more


def team_event(event: str, **data: Any) -> dict[str, Any]:
    return activity("conversationUpdate", **in_team(eventType=event, **data))


INSTALLED: Rows = {
    ADA_ROW: (PERSONAL_CHAT | {"user_id": "29:ada"}, ReferenceStatus.ACTIVE),
    ALIAS: ({"user": ADA}, None),
}
UNINSTALLED: Rows = {ADA_ROW: (PERSONAL_CHAT | {"user_id": "29:ada"}, ReferenceStatus.UNINSTALLED)}
TEAM_INSTALLED: Rows = {
    TEAM_ROW: (TEAM_SEEN, ReferenceStatus.ACTIVE),
    GROUP_ROW: ({"team": TEAM}, None),
    (ReferenceKind.CONVERSATION, TEAM): (channel_seen(TEAM), ReferenceStatus.ACTIVE),
    ADA_ROW: (ADA_KNOWN, None),
}
TEAM_UNINSTALLED: Rows = {TEAM_ROW: (TEAM_SEEN, ReferenceStatus.UNINSTALLED)}

CASES: dict[str, tuple[dict[str, Any], Rows]] = {
    "a personal install makes the person and the alias of the chat": (
        activity("installationUpdate", action="add"),
        INSTALLED,
    ),
    "so does an upgrade": (activity("installationUpdate", action="add-upgrade"), INSTALLED),
    "so does the bot as a new member": (activity("conversationUpdate", membersAdded=[{"id": BOT}]), INSTALLED),
    "an install tells the locale of the client": (
        activity("installationUpdate", action="add", entities=[{"type": "clientInfo", "locale": "en-GB"}]),
        INSTALLED | {ADA_ROW: (PERSONAL_CHAT | {"user_id": "29:ada", "locale": "en-GB"}, ReferenceStatus.ACTIVE)},
    ),
    "an object id is kept in lower case": (
        activity("installationUpdate", action="add", **{"from": {"id": "29:ada", "aadObjectId": ADA.upper()}}),
        INSTALLED,
    ),
    "the person is among the members where the sender has no object id": (
        activity(
            "conversationUpdate",
            membersAdded=[{"id": BOT}, {"id": "29:ada", "aadObjectId": ADA}],
            **{"from": {"id": "29:ada"}},
        ),
        INSTALLED,
    ),
    "a bot that adds itself is no person": (
        activity(
            "conversationUpdate",
            membersAdded=[{"id": BOT}],
            **{"from": {"id": BOT, "aadObjectId": BEN}},
        ),
        {},
    ),
    "a person without an object id leaves nothing but the tenant": (
        activity("installationUpdate", action="add", **{"from": {"id": "29:ada"}}),
        {},
    ),
    "a personal uninstall retires the person": (activity("installationUpdate", action="remove"), UNINSTALLED),
    "so does its upgrade": (activity("installationUpdate", action="remove-upgrade"), UNINSTALLED),
    "so does the bot as a former member": (
        activity("conversationUpdate", membersRemoved=[{"id": BOT}]),
        UNINSTALLED,
    ),
    "a personal message is proof of life and tells about the client": (
        message(),
        INSTALLED | {ADA_ROW: (PERSONAL_CHAT | CLIENT | {"user_id": "29:ada"}, ReferenceStatus.ACTIVE)},
    ),
    "other activities refresh and leave the status": (
        activity("messageReaction", reactionsAdded=[{"type": "like"}]),
        INSTALLED | {ADA_ROW: (PERSONAL_CHAT | {"user_id": "29:ada"}, None)},
    ),
    "so do those of unknown types": (
        activity("somethingNew"),
        INSTALLED | {ADA_ROW: (PERSONAL_CHAT | {"user_id": "29:ada"}, None)},
    ),
    "so do installation updates of unknown actions": (
        activity("installationUpdate", action="pause"),
        INSTALLED | {ADA_ROW: (PERSONAL_CHAT | {"user_id": "29:ada"}, None)},
    ),
    "a group chat's install makes the chat and the person without a chat": (
        activity("installationUpdate", action="add", **in_chat()),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, ReferenceStatus.ACTIVE), ADA_ROW: (ADA_KNOWN, None)},
    ),
    "a group chat's uninstall retires the chat": (
        activity("installationUpdate", action="remove", **in_chat()),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, ReferenceStatus.UNINSTALLED)},
    ),
    "a group chat's message leaves the sender's own chat alone": (
        message(**in_chat()),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, ReferenceStatus.ACTIVE), ADA_ROW: (ADA_KNOWN | CLIENT, None)},
    ),
    "a chat without a type is a group where Teams says so": (
        message(conversation={"isGroup": True, "tenantId": TENANT, "id": CHAT, "name": "Release crew"}),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, ReferenceStatus.ACTIVE), ADA_ROW: (ADA_KNOWN | CLIENT, None)},
    ),
    "or where its id says so": (
        message(conversation={"tenantId": TENANT, "id": CHAT, "name": "Release crew"}),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, ReferenceStatus.ACTIVE), ADA_ROW: (ADA_KNOWN | CLIENT, None)},
    ),
    "people added to a group chat become known": (
        activity("conversationUpdate", membersAdded=[BEN_ACCOUNT | {"name": "Ben"}], **in_chat()),
        {
            (ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, None),
            ADA_ROW: (ADA_KNOWN, None),
            BEN_ROW: (BEN_KNOWN | {"name": "Ben"}, None),
        },
    ),
    "people removed keep their rows as they are": (
        activity("conversationUpdate", membersRemoved=[BEN_ACCOUNT], **in_chat()),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, None), ADA_ROW: (ADA_KNOWN, None)},
    ),
    "the bot added to a team makes team, alias and General channel": (
        activity("conversationUpdate", membersAdded=[{"id": BOT}], **in_team(eventType="teamMemberAdded")),
        TEAM_INSTALLED,
    ),
    "so does the team's install, and the chosen channel too": (
        activity(
            "installationUpdate",
            action="add",
            **in_team(settings={"selectedChannel": {"id": CHANNEL, "name": "Deployments"}}),
        ),
        TEAM_INSTALLED
        | {(ReferenceKind.CONVERSATION, CHANNEL): (channel_seen(CHANNEL, name="Deployments"), ReferenceStatus.ACTIVE)},
    ),
    "an install in a channel makes the General channel too": (
        activity("installationUpdate", action="add", **in_team(CHANNEL)),
        TEAM_INSTALLED | {(ReferenceKind.CONVERSATION, CHANNEL): (channel_seen(CHANNEL), ReferenceStatus.ACTIVE)},
    ),
    "a group id is kept in lower case": (
        activity(
            "installationUpdate",
            action="add",
            **in_team(team={"id": TEAM, "name": "Platform", "aadGroupId": GROUP.upper()}),
        ),
        TEAM_INSTALLED,
    ),
    "the bot removed from a team retires the team alone": (
        activity("conversationUpdate", membersRemoved=[{"id": BOT}], **in_team(eventType="teamMemberRemoved")),
        TEAM_UNINSTALLED,
    ),
    "so does the team's uninstall": (
        activity("installationUpdate", action="remove", **in_team(CHANNEL)),
        TEAM_UNINSTALLED,
    ),
    "an uninstall that names no team retires the channel": (
        activity("installationUpdate", action="remove", **in_team(CHANNEL) | {"channelData": None}),
        {(ReferenceKind.CONVERSATION, CHANNEL): (channel_seen(CHANNEL) | {"team": ""}, ReferenceStatus.UNINSTALLED)},
    ),
    "a channel's message refreshes team, channel and person": (
        message(**in_team(THREAD, channel={"id": CHANNEL, "name": "Deployments"})),
        {
            TEAM_ROW: (TEAM_SEEN, ReferenceStatus.ACTIVE),
            GROUP_ROW: ({"team": TEAM}, None),
            (ReferenceKind.CONVERSATION, CHANNEL): (channel_seen(CHANNEL, name="Deployments"), ReferenceStatus.ACTIVE),
            ADA_ROW: (ADA_KNOWN | CLIENT, None),
        },
    ),
    "a channel's message may name neither team nor group": (
        message(**in_team(THREAD) | {"channelData": {"tenant": {"id": TENANT}}}),
        {
            (ReferenceKind.CONVERSATION, CHANNEL): (channel_seen(CHANNEL) | {"team": ""}, ReferenceStatus.ACTIVE),
            ADA_ROW: (ADA_KNOWN | CLIENT, None),
        },
    ),
    "people added to a team become known": (
        activity("conversationUpdate", membersAdded=[BEN_ACCOUNT], **in_team(eventType="teamMemberAdded")),
        {
            TEAM_ROW: (TEAM_SEEN, None),
            GROUP_ROW: ({"team": TEAM}, None),
            (ReferenceKind.CONVERSATION, TEAM): (channel_seen(TEAM), None),
            ADA_ROW: (ADA_KNOWN, None),
            BEN_ROW: (BEN_KNOWN, None),
        },
    ),
    "new members without an object id stay unknown": (
        activity("conversationUpdate", membersAdded=[{"id": "29:ben"}, {"id": "28:other"}], **in_chat()),
        {(ReferenceKind.CONVERSATION, CHAT): (GROUP_CHAT, None), ADA_ROW: (ADA_KNOWN, None)},
    ),
    **{
        f"{event} writes the team": (
            team_event(event),
            {TEAM_ROW: (TEAM_SEEN, status), GROUP_ROW: ({"team": TEAM}, None)},
        )
        for event, status in (
            ("teamRenamed", None),
            ("teamArchived", None),
            ("teamUnarchived", None),
            ("teamRestored", ReferenceStatus.ACTIVE),
        )
    },
    **{
        f"{event} retires the team": (team_event(event), {TEAM_ROW: (TEAM_SEEN, ReferenceStatus.DELETED)})
        for event in ("teamDeleted", "teamHardDeleted")
    },
    **{
        f"{event} writes the channel, and the team as it is": (
            team_event(event, channel={"id": CHANNEL, "name": "Deployments"}),
            {
                TEAM_ROW: (TEAM_SEEN, None),
                GROUP_ROW: ({"team": TEAM}, None),
                (ReferenceKind.CONVERSATION, CHANNEL): (channel_seen(CHANNEL, name="Deployments"), status),
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
def test_references(name: str) -> None:
    body, expected = CASES[name]
    assert rows(body) == {
        key: ({column: value for column, value in seen.items() if value}, status)
        for key, (seen, status) in expected.items()
    }


def test_what_retires_a_row_creates_none() -> None:
    for name, (body, _) in CASES.items():
        for change in changes(Incoming.model_validate(body), TENANT):
            assert change.create == (change.status not in (ReferenceStatus.UNINSTALLED, ReferenceStatus.DELETED)), name


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"localTimezone": "America/Argentina/Buenos_Aires"}, "America/Argentina/Buenos_Aires"),
        ({"localTimezone": "Etc/GMT+5"}, "Etc/GMT+5"),
        ({"localTimezone": None}, "Europe/Berlin"),
        ({"localTimezone": "W. Europe Standard Time"}, "Europe/Berlin"),
        ({"localTimezone": "Europe/Atlantis", "entities": None}, ""),
        ({"localTimezone": "../../etc/passwd", "entities": None}, ""),
        ({"localTimezone": "/etc/localtime", "entities": None}, ""),
        ({"localTimezone": "Europe", "entities": None}, ""),
        ({"localTimezone": None, "entities": [{"type": "clientInfo", "timezone": 5}]}, ""),
        ({"localTimezone": None, "entities": [{"type": "mention", "timezone": "Asia/Tokyo"}]}, ""),
    ],
)
def test_only_iana_time_zones_are_kept(parts: dict[str, Any], expected: str) -> None:
    assert rows(message(**parts))[ADA_ROW][0].get("time_zone", "") == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"locale": "zh-Hant-TW"}, "zh-Hant-TW"),
        ({"locale": None}, "de-DE"),
        ({"locale": "<script>"}, "de-DE"),
        ({"locale": "x" * 50, "entities": [{"type": "clientInfo", "locale": ["de"]}]}, ""),
    ],
)
def test_only_plausible_locales_are_kept(parts: dict[str, Any], expected: str) -> None:
    assert rows(message(**parts))[ADA_ROW][0].get("locale", "") == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Ada " * 100, ("Ada " * 100)[:MAX_NAME_CHARS].strip()), (" A\x00d\na\u202e ", "A d a"), ("Zoë 李", "Zoë 李")],
)
def test_names_are_short_and_printable(name: str, expected: str) -> None:
    sender = {"id": "29:ada", "aadObjectId": ADA, "name": name}
    assert rows(message(**{"from": sender}))[ADA_ROW][0]["name"].strip() == expected


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
def test_an_event_is_never_later_than_now(timestamp: str | None, expected: datetime) -> None:
    at = event_time(Incoming.model_validate(activity("message", timestamp=timestamp)), NOW)
    assert at == expected
    assert at.tzinfo == timezone.utc  # noqa: UP017 (text of times is compared: one zone for all)
