"""Activities that Teams sends and its documentation does not show (docs/odd-inputs.md, Activities)."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.activity.references import find_reference_changes, is_install, scope_of
from messages.activity.schema import Activity
from messages.auth.admission import ActivityRefused, admit_activity
from messages.endpoint import _parse_activity
from shared.settings import load_settings
from shared.states import ReferenceKind, ReferenceStatus
from shared.teams.hosts import is_same_service_url
from tests.messages.conftest import ADA, APP, BOT, CHANNEL, SERVICE_URL, TEAM, TENANT, activity_json, channel_fields
from tests.shared.test_settings import BOT as BOT_SETTINGS

OTHER_TENANT = "0a1b2c3d-0000-4000-8000-00000000abcd"
SHARED = "19:shared@thread.tacv2"
GRAPH_CHAT = f"19:{ADA}_{APP}@unq.gbl.spaces"
SETTINGS = load_settings(BOT_SETTINGS | {"HERALD_ALLOWED_TENANTS": TENANT})


def changed_rows(body: dict[str, Any]) -> dict[tuple[str, str], ReferenceStatus | None]:
    changes = find_reference_changes(Activity.model_validate(body), TENANT)
    return {(str(each.kind), each.id): each.status for each in changes if each.kind is not ReferenceKind.TENANT}


@pytest.mark.parametrize(
    "claim",
    [SERVICE_URL, SERVICE_URL.rstrip("/"), SERVICE_URL.replace("https://smba", "HTTPS://SMBA")],
)
def test_slash_at_the_end_and_case_of_the_host_do_not_count(claim: str) -> None:
    activity = Activity.model_validate(activity_json("message"))
    assert admit_activity(activity, SETTINGS, claim) == TENANT


@pytest.mark.parametrize(
    "claim",
    [SERVICE_URL + "/", SERVICE_URL.replace("emea", "EMEA"), SERVICE_URL + "x", "https://smba.trafficmanager.net"],
)
def test_any_other_difference_of_the_service_url_is_refused(claim: str) -> None:
    with pytest.raises(ActivityRefused, match="serviceUrl"):
        admit_activity(Activity.model_validate(activity_json("message")), SETTINGS, claim)


@given(st.text(), st.text())
def test_service_urls_are_compared_whatever_they_are(one: str, other: str) -> None:
    assert is_same_service_url(one, one)
    assert is_same_service_url(one, other) == is_same_service_url(other, one)


@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00", "\\ud83d x"])
def test_half_of_an_emoji_in_a_name_is_replaced(half: str) -> None:
    body = activity_json("installationUpdate", action="add")
    body["from"]["name"] = "Ada"
    text = orjson.dumps(body).replace(b'"name":"Ada"', b'"name":"Ada ' + half.encode() + b'"')
    activity = _parse_activity(text)
    assert activity.sender.name.startswith("Ada \ufffd")
    assert activity.sender.aad_object_id == ADA


def test_sender_of_another_tenant_in_a_shared_channel_belongs_to_the_channels_tenant_and_gets_no_row() -> None:
    fields = channel_fields(CHANNEL)
    fields["channelData"]["tenant"] = {"id": OTHER_TENANT}
    activity = Activity.model_validate(activity_json("message", **fields))
    assert admit_activity(activity, SETTINGS, SERVICE_URL) == TENANT
    assert ("user", ADA) not in changed_rows(activity_json("message", **fields))


def test_personal_chat_that_names_two_tenants_is_refused() -> None:
    body = activity_json("message", channelData={"tenant": {"id": OTHER_TENANT}})
    with pytest.raises(ActivityRefused, match="tenant"):
        admit_activity(Activity.model_validate(body), SETTINGS, SERVICE_URL)


@pytest.mark.parametrize(
    ("kind", "fields", "status"),
    [
        ("conversationUpdate", {"membersRemoved": [{"id": BOT}]}, ReferenceStatus.UNINSTALLED),
        ("conversationUpdate", {"membersAdded": [{"id": BOT}]}, ReferenceStatus.ACTIVE),
        ("installationUpdate", {"action": "remove"}, ReferenceStatus.UNINSTALLED),
        ("installationUpdate", {"action": "add"}, ReferenceStatus.ACTIVE),
    ],
)
def test_bot_in_one_channel_changes_only_that_channel_and_welcomes_nobody(
    kind: str, fields: dict[str, Any], status: ReferenceStatus
) -> None:
    body = activity_json(kind, **channel_fields(SHARED, channel={"id": SHARED}), **fields)
    assert changed_rows(body) == {("conversation", SHARED): status}
    assert not is_install(Activity.model_validate(body))


def test_bot_in_a_team_still_changes_the_team() -> None:
    for data in (
        {},
        {"channel": {"id": TEAM}},
        {"channel": {"id": CHANNEL}, "settings": {"selectedChannel": {"id": CHANNEL}}},
    ):
        body = activity_json("installationUpdate", **channel_fields(TEAM, **data), action="add")
        assert changed_rows(body)["team", TEAM] is ReferenceStatus.ACTIVE
        assert is_install(Activity.model_validate(body))


@pytest.mark.parametrize("sender", [{"id": "29:ada", "aadObjectId": ADA}, {"id": BOT}])
def test_personal_chat_as_graph_names_it_is_the_persons_and_is_not_stored_as_their_chat(sender: dict[str, str]) -> None:
    body = activity_json(
        "installationUpdate", action="add", conversation={"id": GRAPH_CHAT, "tenantId": TENANT}, **{"from": sender}
    )
    activity = Activity.model_validate(body)
    assert scope_of(activity) == "personal"
    [person] = [each for each in find_reference_changes(activity, TENANT) if each.kind is ReferenceKind.USER]
    assert (person.id, person.status) == (ADA, ReferenceStatus.ACTIVE)
    assert not person.observed["conversation_id"]
