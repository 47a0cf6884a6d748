from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock

import aiohttp
import orjson
import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from messages.activity.schema import MAX_ID_CHARS
from messages.auth.admission import is_local_caller
from messages.endpoint import MAX_BODY_BYTES, Endpoint, open_endpoint
from messages.turn_adapter import SendingInTurn, TurnAdapter, read_activity
from shared.storage.conversations import Conversations
from shared.storage.table import Conflict
from tests.messages.conftest import (
    ADA,
    BOT,
    PERSONAL,
    SERVICE_URL,
    TENANT,
    Clock,
    Memory,
    Publisher,
    activity,
    bearer,
    in_chat,
    in_team,
    message,
    services,
    settings,
)

pytestmark = pytest.mark.usefixtures("silent")

LOCAL_URL = "http://127.0.0.1:56150/_connector"
ELSEWHERE = "https://elsewhere.example/"


def endpoint(
    publisher: Publisher, session: aiohttp.ClientSession, clock: Clock, storage: object, **changed: str
) -> Endpoint:
    configured = settings(ToBotFromChannelOpenIdMetadataUrl=f"{publisher.url}/openid", **changed)
    return open_endpoint(
        services(settings=configured, conversations=storage, queues=AsyncMock(), http=session, real_time=clock)
    )


@pytest.fixture
def closed(publisher: Publisher, session: aiohttp.ClientSession, clock: Clock, untouched: Conversations) -> Endpoint:
    """An endpoint whose storage fails the test when it is asked."""
    return endpoint(publisher, session, clock, untouched)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def opened(publisher: Publisher, session: aiohttp.ClientSession, clock: Clock, memory: Memory) -> Endpoint:
    return endpoint(publisher, session, clock, memory)


async def post(to: Endpoint, body: object, authorization: str | None = None) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    answer = await to.receive({"authorization": bearer() if authorization is None else authorization}, raw)
    return answer.status, orjson.loads(answer.body) if answer.body else None


async def refuses(to: Endpoint, status: int, body: object, authorization: str | None = None) -> None:
    answered, text = await post(to, body, authorization)
    assert answered == status
    assert list(text) == ["error"]
    assert "\n" not in text["error"]


async def test_an_activity_of_teams_is_accepted_without_a_body(opened: Endpoint, memory: Memory) -> None:
    assert await post(opened, message()) == (200, None)
    assert (TENANT, "user", ADA) in memory.saved


@pytest.mark.parametrize("authorization", ["", "Bearer garbage", "Basic eDp5"])
async def test_401_without_a_token_whatever_the_body(closed: Endpoint, authorization: str) -> None:
    for body in (message(), b"", b"not json", b"x" * MAX_BODY_BYTES):
        await refuses(closed, 401, body, authorization)


async def test_413_over_256_kb_before_anything_else(closed: Endpoint, publisher: Publisher) -> None:
    await refuses(closed, 413, b" " * (MAX_BODY_BYTES + 1), "")
    await refuses(closed, 413, b" " * (MAX_BODY_BYTES + 1))
    assert not publisher.requests


async def test_256_kb_are_not_too_large(opened: Endpoint) -> None:
    body = orjson.dumps(message())
    assert await post(opened, body + b" " * (MAX_BODY_BYTES - len(body))) == (200, None)


NOT_ACTIVITIES: dict[str, object] = {
    "empty": b"",
    "not json": b"{",
    "not utf-8": b'{"type": "\xff"}',
    "not a number": b'{"type": "message", "value": NaN}',
    "a lone surrogate": b'{"type": "message", "text": "\\ud800"}',
    "nested too deeply for json": b'{"type": "message", "value": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    "nested too deeply for botbuilder": b'{"type": "message", "value": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    "a list": [],
    "a text": "message",
    "null": None,
    "an object": {},
    "type is missing": activity("message", type=None),
    "type is empty": activity(""),
    "type is a number": activity("message", type=5),
    "from is a text": message(**{"from": "29:ada"}),
    "from is a list": message(**{"from": []}),
    "object id is a number": message(**{"from": {"id": "29:ada", "aadObjectId": 5}}),
    "an id has a line break": message(**{"from": {"id": "29:\nada"}}),
    "an id is absurdly long": message(conversation={"id": "a" * (MAX_ID_CHARS + 1), "tenantId": TENANT}),
    "conversation is a text": message(conversation=PERSONAL),
    "a tenant is a number": message(channelData={"tenant": {"id": 5}}),
    "channelData is a text": message(channelData="x"),
    "entities is an object": message(entities={}),
    "an entity is a text": message(entities=["x"]),
    "members are an object": activity("conversationUpdate", membersAdded={}),
    "a member is a text": activity("conversationUpdate", membersAdded=["29:ada"]),
    "timestamp is a number": message(timestamp=5),
    "timestamp is no time": message(timestamp="yesterday"),
    "timestamp is out of range": message(timestamp="0001-01-01T00:00:00+14:00"),
    "local timestamp is no time": message(localTimestamp="yesterday"),
    "attachments are a text": message(attachments="x"),
    "serviceUrl is a list": message(serviceUrl=[SERVICE_URL]),
}


@pytest.mark.parametrize("name", NOT_ACTIVITIES)
async def test_400_for_a_body_that_is_no_activity(closed: Endpoint, name: str) -> None:
    await refuses(closed, 400, NOT_ACTIVITIES[name])


@pytest.mark.parametrize(
    ("make", "service_url"),
    [
        pytest.param(lambda: bearer(serviceurl=None), SERVICE_URL, id="no claim"),
        pytest.param(lambda: bearer(serviceurl=ELSEWHERE), SERVICE_URL, id="another claim"),
        pytest.param(lambda: bearer(serviceurl=["x"]), SERVICE_URL, id="claim is a list"),
        pytest.param(lambda: bearer(serviceurl=SERVICE_URL.rstrip("/")), SERVICE_URL, id="no slash"),
        pytest.param(lambda: bearer(), None, id="no serviceUrl"),
        pytest.param(lambda: bearer(), "", id="empty serviceUrl"),
        pytest.param(lambda: bearer(serviceurl=""), "", id="both empty"),
        pytest.param(lambda: bearer(serviceurl=None), None, id="neither"),
    ],
)
async def test_401_where_the_token_is_for_another_service_url(
    closed: Endpoint, make: Callable[[], str], service_url: str | None
) -> None:
    await refuses(closed, 401, message(serviceUrl=service_url), make())


@pytest.mark.parametrize("channel", ["emulator", "webchat", "MSTEAMS", "", None])
async def test_403_for_another_channel(closed: Endpoint, channel: str | None) -> None:
    await refuses(closed, 403, message(channelId=channel))


OTHER = "d6d49420-f39b-4df7-a1dc-d59a935871db"


@pytest.mark.parametrize(
    ("conversation", "channel_data"),
    [(OTHER, OTHER), (OTHER, TENANT), (TENANT, OTHER), (None, OTHER), (OTHER, None), (None, None), ("", "")],
)
async def test_403_for_a_tenant_that_is_unknown_not_allowed_or_contradictory(
    closed: Endpoint, conversation: str | None, channel_data: str | None
) -> None:
    body = message(
        conversation={"conversationType": "personal", "id": PERSONAL, "tenantId": conversation},
        channelData={"tenant": {"id": channel_data}} if channel_data is not None else None,
    )
    await refuses(closed, 403, body)


@pytest.mark.parametrize(("conversation", "channel_data"), [(TENANT.upper(), TENANT), (None, TENANT), (TENANT, None)])
async def test_a_tenant_is_named_once_or_twice_in_any_case(
    opened: Endpoint, memory: Memory, conversation: str | None, channel_data: str | None
) -> None:
    body = message(
        conversation={"conversationType": "personal", "id": PERSONAL, "tenantId": conversation},
        channelData={"tenant": {"id": channel_data}},
    )
    assert await post(opened, body) == (200, None)
    assert {tenant for tenant, _, _ in memory.saved} == {TENANT}


@pytest.mark.parametrize(
    "service_url",
    [
        ELSEWHERE,
        "http://smba.trafficmanager.net/emea/",
        "https://smba.trafficmanager.net.elsewhere.example/",
        "https://smba.trafficmanager.net@elsewhere.example/",
        "not a url",
        LOCAL_URL,
    ],
)
async def test_403_for_a_host_that_is_none_of_teams(closed: Endpoint, service_url: str) -> None:
    await refuses(closed, 403, message(serviceUrl=service_url), bearer(serviceurl=service_url))


async def test_a_host_is_allowed_by_setting(
    publisher: Publisher, session: aiohttp.ClientSession, clock: Clock, memory: Memory
) -> None:
    to = endpoint(publisher, session, clock, memory, HERALD_SERVICE_HOSTS="elsewhere.example")
    assert await post(to, message(serviceUrl=ELSEWHERE), bearer(serviceurl=ELSEWHERE)) == (200, None)


async def test_503_while_no_keys_can_be_read(
    closed: Endpoint, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    publisher.status = 500
    await refuses(closed, 503, message())
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1


@pytest.mark.parametrize("error", [ServiceRequestError("down"), HttpResponseError("bad"), Conflict(), TimeoutError()])
async def test_503_where_storage_fails_so_that_teams_repeats(
    publisher: Publisher,
    session: aiohttp.ClientSession,
    clock: Clock,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    to = endpoint(publisher, session, clock, Memory(error))
    await refuses(to, 503, message())
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
    assert ADA not in caplog.text


async def test_503_where_storage_does_not_answer_in_time(
    publisher: Publisher, session: aiohttp.ClientSession, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging:
        async def save(self, *_: object, **__: object) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr("messages.endpoint.DEADLINE_SECONDS", 0.05)
    await refuses(endpoint(publisher, session, clock, Hanging()), 503, message())


@pytest.mark.parametrize(
    "name",
    ["task/fetch", "composeExtension/query", "fileConsent/invoke", "signin/verifyState", None],
)
async def test_an_unknown_invoke_is_not_implemented(opened: Endpoint, memory: Memory, name: str | None) -> None:
    assert await post(opened, activity("invoke", name=name, value="anything")) == (501, None)
    assert (TENANT, "user", ADA) in memory.saved


async def test_no_secret_and_nobody_in_the_log(opened: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = bearer()
    await post(opened, message(), token)
    await post(opened, message(serviceUrl=ELSEWHERE), token)
    await post(opened, message(), token + "x")
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
_WHOLE = [
    message(),
    activity("installationUpdate", action="add", **in_chat()),
    activity("conversationUpdate", membersAdded=[{"id": BOT}], **in_team(eventType="teamMemberAdded")),
    activity("conversationUpdate", **in_team(eventType="channelDeleted", channel={"id": "x", "name": "y"})),
    activity("invoke", name="adaptiveCard/action", value={"action": {"type": "Action.Execute", "verb": "x"}}),
]


@given(
    body=st.sampled_from(_WHOLE),
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
async def test_a_verified_body_of_any_shape_never_fails(
    opened: Endpoint, body: dict[str, Any], changed: dict[str, Any], inside: dict[tuple[str, str], Any]
) -> None:
    body = body | changed
    for (part, name), value in inside.items():
        if isinstance(body.get(part), dict):
            body[part] = body[part] | {name: value}
    status, _ = await post(opened, body)
    assert status in (200, 400, 403, 501)


# Without an app id: on a developer's machine.


@pytest.fixture
def local(session: aiohttp.ClientSession, clock: Clock, memory: Memory) -> Endpoint:
    configured = settings(
        MicrosoftAppId="", MicrosoftAppPassword="", MicrosoftAppTenantId="", AZURE_FUNCTIONS_ENVIRONMENT="Development"
    )
    return open_endpoint(
        services(settings=configured, conversations=memory, queues=AsyncMock(), http=session, real_time=clock)
    )


async def test_without_an_app_id_this_machine_needs_no_token(local: Endpoint, memory: Memory) -> None:
    body = orjson.dumps(message(serviceUrl=LOCAL_URL))
    assert (await local.receive({"host": "127.0.0.1:7071"}, body)).status == 200
    assert (TENANT, "user", ADA) in memory.saved


async def test_without_an_app_id_other_machines_are_refused(local: Endpoint, memory: Memory) -> None:
    body = orjson.dumps(message(serviceUrl=LOCAL_URL))
    assert (await local.receive({"host": "bot.example"}, body)).status == 401
    assert not memory.saved


@pytest.mark.parametrize("service_url", [SERVICE_URL, ELSEWHERE, "", None])
async def test_without_an_app_id_only_loopback_service_urls_are_taken(
    local: Endpoint, memory: Memory, service_url: str | None
) -> None:
    answer = await local.receive({"host": "localhost"}, orjson.dumps(message(serviceUrl=service_url)))
    assert answer.status == 403
    assert not memory.saved


@pytest.mark.parametrize("tenant", ["a/b", "a;b", "x" * 101, "é"])
async def test_without_an_app_id_a_tenant_still_has_to_be_one(local: Endpoint, memory: Memory, tenant: str) -> None:
    body = message(serviceUrl=LOCAL_URL, conversation={"id": PERSONAL, "tenantId": tenant}, channelData=None)
    assert (await local.receive({"host": "localhost"}, orjson.dumps(body))).status == 403
    assert not memory.saved


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
def test_a_local_caller_shows_no_trace_of_another_machine(headers: dict[str, str], expected: bool) -> None:
    assert is_local_caller(headers) == expected


async def test_a_bot_cannot_send_within_a_turn() -> None:
    class Chatty:
        async def on_turn(self, context: Any) -> None:
            await context.send_activity("hello")

    with pytest.raises(SendingInTurn):
        await TurnAdapter().process(read_activity(message()), Chatty(), {})
