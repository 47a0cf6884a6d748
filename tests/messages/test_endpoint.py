from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from unittest.mock import AsyncMock

import aiohttp
import orjson
import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from messages.activity.schema import MAX_ID_CHARS, MAX_VALUE_DEPTH, Activity
from messages.activity.verified import VerifiedActivity
from messages.auth.admission import is_local_caller
from messages.endpoint import MAX_BODY_BYTES, Endpoint, open_endpoint
from messages.turn_adapter import SentInTurn, TurnAdapter
from shared.storage.conversations import Conversations
from shared.storage.table import Conflict
from tests.messages.conftest import (
    ADA,
    BOT,
    PERSONAL,
    SERVICE_URL,
    TENANT,
    Clock,
    OpenIdServer,
    ReferenceRecorder,
    activity_json,
    bearer,
    channel_fields,
    group_chat_fields,
    make_services,
    make_settings,
    message_json,
)

pytestmark = pytest.mark.usefixtures("without_answers")

LOOPBACK_URL = "http://127.0.0.1:56150/_connector"
OTHER_URL = "https://elsewhere.example/"


def make_endpoint(
    openid_server: OpenIdServer, session: aiohttp.ClientSession, clock: Clock, storage: object, **changed: str
) -> Endpoint:
    configured = make_settings(ToBotFromChannelOpenIdMetadataUrl=f"{openid_server.url}/openid", **changed)
    return open_endpoint(
        make_services(settings=configured, conversations=storage, queues=AsyncMock(), http=session, real_time=clock)
    )


@pytest.fixture
def closed_endpoint(
    openid_server: OpenIdServer, session: aiohttp.ClientSession, clock: Clock, forbidden_storage: Conversations
) -> Endpoint:
    """An endpoint whose storage fails the test when it is used."""
    return make_endpoint(openid_server, session, clock, forbidden_storage)


@pytest.fixture
def recorder() -> ReferenceRecorder:
    return ReferenceRecorder()


@pytest.fixture
def endpoint(
    openid_server: OpenIdServer, session: aiohttp.ClientSession, clock: Clock, recorder: ReferenceRecorder
) -> Endpoint:
    return make_endpoint(openid_server, session, clock, recorder)


async def post(endpoint: Endpoint, body: object, authorization: str | None = None) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    answer = await endpoint.receive({"authorization": bearer() if authorization is None else authorization}, raw)
    return answer.status, orjson.loads(answer.body) if answer.body else None


async def assert_refused(endpoint: Endpoint, status: int, body: object, authorization: str | None = None) -> None:
    answered, error = await post(endpoint, body, authorization)
    assert answered == status
    assert list(error) == ["error"]
    assert "\n" not in error["error"]


async def test_activity_from_teams_is_answered_with_200_and_no_body(
    endpoint: Endpoint, recorder: ReferenceRecorder
) -> None:
    assert await post(endpoint, message_json()) == (200, None)
    assert (TENANT, "user", ADA) in recorder.saved


@pytest.mark.parametrize("authorization", ["", "Bearer garbage", "Basic eDp5"])
async def test_401_without_a_token_for_any_body(closed_endpoint: Endpoint, authorization: str) -> None:
    for body in (message_json(), b"", b"not json", b"x" * MAX_BODY_BYTES):
        await assert_refused(closed_endpoint, 401, body, authorization)


async def test_413_over_256_kb_before_anything_else(closed_endpoint: Endpoint, openid_server: OpenIdServer) -> None:
    await assert_refused(closed_endpoint, 413, b" " * (MAX_BODY_BYTES + 1), "")
    await assert_refused(closed_endpoint, 413, b" " * (MAX_BODY_BYTES + 1))
    assert not openid_server.requests


async def test_body_of_256_kb_is_accepted(endpoint: Endpoint) -> None:
    body = orjson.dumps(message_json())
    assert await post(endpoint, body + b" " * (MAX_BODY_BYTES - len(body))) == (200, None)


INVALID_BODIES: dict[str, object] = {
    "empty": b"",
    "not json": b"{",
    "not utf-8": b'{"type": "\xff"}',
    "a number that is NaN": b'{"type": "message", "value": NaN}',
    "nested too deeply for json": b'{"type": "message", "value": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    "nested too deeply for Herald": b'{"type": "message", "value": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    "a list": [],
    "a string": "message",
    "null": None,
    "an object": {},
    "type is missing": activity_json("message", type=None),
    "type is empty": activity_json(""),
    "type is a number": activity_json("message", type=5),
    "from is a string": message_json(**{"from": "29:ada"}),
    "from is a list": message_json(**{"from": []}),
    "object id is a number": message_json(**{"from": {"id": "29:ada", "aadObjectId": 5}}),
    "an id has a line break": message_json(**{"from": {"id": "29:\nada"}}),
    "an id is too long": message_json(conversation={"id": "a" * (MAX_ID_CHARS + 1), "tenantId": TENANT}),
    "conversation is a string": message_json(conversation=PERSONAL),
    "a tenant is a number": message_json(channelData={"tenant": {"id": 5}}),
    "channelData is a string": message_json(channelData="x"),
    "entities is an object": message_json(entities={}),
    "an entity is a string": message_json(entities=["x"]),
    "members are an object": activity_json("conversationUpdate", membersAdded={}),
    "a member is a string": activity_json("conversationUpdate", membersAdded=["29:ada"]),
    "timestamp is a number": message_json(timestamp=5),
    "timestamp is not a time": message_json(timestamp="yesterday"),
    "timestamp is out of range": message_json(timestamp="0001-01-01T00:00:00+14:00"),
    "local timestamp is not a time": message_json(localTimestamp="yesterday"),
    "attachments are a string": message_json(attachments="x"),
    "serviceUrl is a list": message_json(serviceUrl=[SERVICE_URL]),
}


@pytest.mark.parametrize("name", INVALID_BODIES)
async def test_400_for_a_body_that_is_not_an_activity(closed_endpoint: Endpoint, name: str) -> None:
    await assert_refused(closed_endpoint, 400, INVALID_BODIES[name])


@pytest.mark.parametrize(("depth", "status"), [(MAX_VALUE_DEPTH, 200), (MAX_VALUE_DEPTH + 1, 400)])
async def test_nesting_of_value_is_limited(endpoint: Endpoint, depth: int, status: int) -> None:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    assert (await post(endpoint, message_json(value=value)))[0] == status


@pytest.mark.parametrize(
    ("make", "service_url"),
    [
        pytest.param(lambda: bearer(serviceurl=None), SERVICE_URL, id="no claim"),
        pytest.param(lambda: bearer(serviceurl=OTHER_URL), SERVICE_URL, id="another claim"),
        pytest.param(lambda: bearer(serviceurl=["x"]), SERVICE_URL, id="claim is a list"),
        pytest.param(lambda: bearer(), None, id="no serviceUrl"),
        pytest.param(lambda: bearer(), "", id="empty serviceUrl"),
        pytest.param(lambda: bearer(serviceurl=""), "", id="both empty"),
        pytest.param(lambda: bearer(serviceurl=None), None, id="neither"),
    ],
)
async def test_401_if_the_token_is_for_another_service_url(
    closed_endpoint: Endpoint, make: Callable[[], str], service_url: str | None
) -> None:
    await assert_refused(closed_endpoint, 401, message_json(serviceUrl=service_url), make())


@pytest.mark.parametrize("channel", ["emulator", "webchat", "MSTEAMS", "", None])
async def test_403_for_another_channel(closed_endpoint: Endpoint, channel: str | None) -> None:
    await assert_refused(closed_endpoint, 403, message_json(channelId=channel))


OTHER_TENANT = "d6d49420-f39b-4df7-a1dc-d59a935871db"


@pytest.mark.parametrize(
    ("conversation", "channel_data"),
    [
        (OTHER_TENANT, OTHER_TENANT),
        (OTHER_TENANT, TENANT),
        (TENANT, OTHER_TENANT),
        (None, OTHER_TENANT),
        (OTHER_TENANT, None),
        (None, None),
        ("", ""),
    ],
)
async def test_403_for_a_tenant_that_is_missing_not_allowed_or_contradictory(
    closed_endpoint: Endpoint, conversation: str | None, channel_data: str | None
) -> None:
    body = message_json(
        conversation={"conversationType": "personal", "id": PERSONAL, "tenantId": conversation},
        channelData={"tenant": {"id": channel_data}} if channel_data is not None else None,
    )
    await assert_refused(closed_endpoint, 403, body)


@pytest.mark.parametrize(("conversation", "channel_data"), [(TENANT.upper(), TENANT), (None, TENANT), (TENANT, None)])
async def test_tenant_may_be_named_once_or_twice_in_any_case(
    endpoint: Endpoint, recorder: ReferenceRecorder, conversation: str | None, channel_data: str | None
) -> None:
    body = message_json(
        conversation={"conversationType": "personal", "id": PERSONAL, "tenantId": conversation},
        channelData={"tenant": {"id": channel_data}},
    )
    assert await post(endpoint, body) == (200, None)
    assert {tenant for tenant, _, _ in recorder.saved} == {TENANT}


@pytest.mark.parametrize(
    "service_url",
    [
        OTHER_URL,
        "http://smba.trafficmanager.net/emea/",
        "https://smba.trafficmanager.net.elsewhere.example/",
        "https://smba.trafficmanager.net@elsewhere.example/",
        "not a url",
        LOOPBACK_URL,
    ],
)
async def test_403_for_a_service_url_outside_of_teams(closed_endpoint: Endpoint, service_url: str) -> None:
    await assert_refused(closed_endpoint, 403, message_json(serviceUrl=service_url), bearer(serviceurl=service_url))


async def test_setting_allows_a_host(
    openid_server: OpenIdServer, session: aiohttp.ClientSession, clock: Clock, recorder: ReferenceRecorder
) -> None:
    endpoint = make_endpoint(openid_server, session, clock, recorder, HERALD_SERVICE_HOSTS="elsewhere.example")
    assert await post(endpoint, message_json(serviceUrl=OTHER_URL), bearer(serviceurl=OTHER_URL)) == (200, None)


async def test_503_while_no_keys_can_be_read(
    closed_endpoint: Endpoint, openid_server: OpenIdServer, caplog: pytest.LogCaptureFixture
) -> None:
    openid_server.status = 500
    await assert_refused(closed_endpoint, 503, message_json())
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1


@pytest.mark.parametrize("error", [ServiceRequestError("down"), HttpResponseError("bad"), Conflict(), TimeoutError()])
async def test_503_if_storage_fails(
    openid_server: OpenIdServer,
    session: aiohttp.ClientSession,
    clock: Clock,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint = make_endpoint(openid_server, session, clock, ReferenceRecorder(error))
    await assert_refused(endpoint, 503, message_json())
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
    assert ADA not in caplog.text


async def test_503_if_storage_does_not_answer_in_time(
    openid_server: OpenIdServer, session: aiohttp.ClientSession, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging:
        async def save(self, *_: object, **__: object) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr("messages.endpoint.ACTIVITY_TIMEOUT_SECONDS", 0.05)
    await assert_refused(make_endpoint(openid_server, session, clock, Hanging()), 503, message_json())


@pytest.mark.parametrize(
    "name",
    ["task/fetch", "composeExtension/query", "fileConsent/invoke", "signin/verifyState", None],
)
async def test_501_for_an_unknown_invoke(endpoint: Endpoint, recorder: ReferenceRecorder, name: str | None) -> None:
    assert await post(endpoint, activity_json("invoke", name=name, value="anything")) == (501, None)
    assert (TENANT, "user", ADA) in recorder.saved


async def test_log_has_no_secrets_and_no_personal_data(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = bearer()
    await post(endpoint, message_json(), token)
    await post(endpoint, message_json(serviceUrl=OTHER_URL), token)
    await post(endpoint, message_json(), token + "x")
    for private in (token, ADA, "Ada", "hello", PERSONAL):
        assert private not in caplog.text


_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.text(max_size=20))
_JSON = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
_FIELDS = [
    "type", "action", "name", "text", "from", "recipient", "conversation", "channelData", "membersAdded",
    "membersRemoved", "entities", "attachments", "value", "locale", "localTimezone", "timestamp", "localTimestamp",
    "expiration", "replyToId", "relatesTo", "suggestedActions", "reactionsAdded", "textHighlights", "semanticAction",
    "listenFor", "deliveryMode", "importance", "historyDisclosed", "callerId", "label", "topicName", "code", "id",
]  # fmt: skip
_VALID_BODIES = [
    message_json(),
    activity_json("installationUpdate", action="add", **group_chat_fields()),
    activity_json("conversationUpdate", membersAdded=[{"id": BOT}], **channel_fields(eventType="teamMemberAdded")),
    activity_json("conversationUpdate", **channel_fields(eventType="channelDeleted", channel={"id": "x", "name": "y"})),
    activity_json("invoke", name="adaptiveCard/action", value={"action": {"type": "Action.Execute", "verb": "x"}}),
]


@given(
    body=st.sampled_from(_VALID_BODIES),
    changed=st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=4),
    inside=st.dictionaries(
        st.tuples(
            st.sampled_from(["from", "conversation", "channelData", "recipient"]),
            st.sampled_from(
                ["id", "name", "aadObjectId", "tenant", "team", "channel", "settings", "eventType", "isGroup"]
            ),
        ),
        _JSON,
        max_size=3,
    ),
)
@hypothesis_settings(suppress_health_check=list(HealthCheck))
async def test_verified_body_of_any_shape_has_an_expected_status(
    endpoint: Endpoint, body: dict[str, Any], changed: dict[str, Any], inside: dict[tuple[str, str], Any]
) -> None:
    body = body | changed
    for (part, name), value in inside.items():
        if isinstance(body.get(part), dict):
            body[part] = body[part] | {name: value}
    status, _ = await post(endpoint, body)
    assert status in (200, 400, 403, 501)


# Without an app id, on a developer's machine


@pytest.fixture
def local_endpoint(session: aiohttp.ClientSession, clock: Clock, recorder: ReferenceRecorder) -> Endpoint:
    configured = make_settings(
        MicrosoftAppId="", MicrosoftAppPassword="", MicrosoftAppTenantId="", AZURE_FUNCTIONS_ENVIRONMENT="Development"
    )
    return open_endpoint(
        make_services(settings=configured, conversations=recorder, queues=AsyncMock(), http=session, real_time=clock)
    )


async def test_without_app_id_a_local_caller_needs_no_token(
    local_endpoint: Endpoint, recorder: ReferenceRecorder
) -> None:
    body = orjson.dumps(message_json(serviceUrl=LOOPBACK_URL))
    assert (await local_endpoint.receive({"host": "127.0.0.1:7071"}, body)).status == 200
    assert (TENANT, "user", ADA) in recorder.saved


async def test_without_app_id_other_machines_are_refused(local_endpoint: Endpoint, recorder: ReferenceRecorder) -> None:
    body = orjson.dumps(message_json(serviceUrl=LOOPBACK_URL))
    assert (await local_endpoint.receive({"host": "bot.example"}, body)).status == 401
    assert not recorder.saved


@pytest.mark.parametrize("service_url", [SERVICE_URL, OTHER_URL, "", None])
async def test_without_app_id_only_loopback_service_urls_are_accepted(
    local_endpoint: Endpoint, recorder: ReferenceRecorder, service_url: str | None
) -> None:
    answer = await local_endpoint.receive({"host": "localhost"}, orjson.dumps(message_json(serviceUrl=service_url)))
    assert answer.status == 403
    assert not recorder.saved


@pytest.mark.parametrize("tenant", ["a/b", "a;b", "x" * 101, "é"])
async def test_without_app_id_a_malformed_tenant_is_refused(
    local_endpoint: Endpoint, recorder: ReferenceRecorder, tenant: str
) -> None:
    body = message_json(serviceUrl=LOOPBACK_URL, conversation={"id": PERSONAL, "tenantId": tenant}, channelData=None)
    assert (await local_endpoint.receive({"host": "localhost"}, orjson.dumps(body))).status == 403
    assert not recorder.saved


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "127.0.0.1:7071"}, True),
        ({"host": "localhost:7071"}, True),
        ({"host": "LOCALHOST"}, True),
        ({"host": "[::1]:7071"}, True),
        ({}, False),
        ({"host": ""}, False),
        ({"host": "herald.azurewebsites.net"}, False),
        ({"host": "127.0.0.1.elsewhere.example"}, False),
        ({"host": "localhost", "x-forwarded-for": "127.0.0.1"}, True),
        ({"host": "localhost", "x-forwarded-for": "::1, 127.0.0.1:50000"}, True),
        ({"host": "localhost", "x-forwarded-for": "203.0.113.7"}, False),
        ({"host": "localhost", "x-forwarded-for": "127.0.0.1, 203.0.113.7:443"}, False),
        ({"host": "localhost", "x-forwarded-for": ""}, False),
        ({"host": "localhost", "x-forwarded-host": "tunnel.example"}, False),
        ({"host": "localhost", "x-real-ip": "203.0.113.7"}, False),
        ({"host": "localhost", "x-client-ip": "203.0.113.7"}, False),
        ({"host": "localhost", "forwarded": "for=127.0.0.1"}, False),
        ({"host": "localhost", "x-arr-ssl": "2048"}, False),
        ({"host": "localhost", "origin": "http://localhost:56150"}, True),
        ({"host": "localhost", "origin": "https://elsewhere.example"}, False),
        ({"host": "localhost", "origin": "null"}, False),
        ({"host": "localhost", "origin": "http://[bad"}, False),
    ],
)
def test_local_caller_has_no_header_of_another_machine(headers: dict[str, str], expected: bool) -> None:
    assert is_local_caller(headers) == expected


async def test_bot_cannot_send_within_a_turn() -> None:
    class SendingBot:
        async def on_turn(self, context: Any) -> None:
            await context.send_activity("hello")

    verified = VerifiedActivity(Activity.model_validate(message_json()), TENANT, datetime.now(UTC))
    with pytest.raises(SentInTurn):
        await TurnAdapter().process(verified, SendingBot())
