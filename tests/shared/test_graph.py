"""The client of Microsoft Graph: what each answer means, and the requests that it sends to a double of Graph."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from shared.services import open_services
from shared.settings import Settings, load_settings
from shared.states import Reason
from shared.storage.rate_lanes import LaneKind, TenantLaneKind
from shared.teams import graph_answers as answers
from shared.teams.graph import Graph, KnownPeople
from shared.teams.graph_answers import (
    FIND_APP,
    FIND_PERSON,
    INSTALL_FOR_PERSON,
    INSTALL_FOR_TEAM,
    LIST_GROUP,
    READ_MAILBOX,
    Account,
    Installed,
    MailboxSettings,
    Operation,
    Page,
)
from shared.teams.outcome import Outcome, Verdict
from shared.teams.rate_limiter import RetryLater
from shared.time.clock import real_time
from tests.messages.conftest import ADA, APP, BEN, GROUP, TENANT
from tests.support.storage import Storage

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OTHER_TENANT = "2b6c1d0e-7a45-4c19-9f38-d50e8a61b274"
MANIFEST = "70f5c2a8-0b1e-4d63-95c7-e84a1f2d3b60"
#: The app in the catalogue.
CATALOGUE = "e61b9d34-58a7-4f02-8c1d-3a7f60e5b942"
LOGIN = "https://login.microsoftonline.us/home"
POLICY = "App is blocked by app permission policy. TenantId: t, UserObjectId: u, AppId: a, AppType: Private"
ROLE = "Missing role permissions on the request. API requires one of 'A, B'. Roles on the request ''."
PRIVILEGES = "Insufficient privileges to complete the operation."
EXPIRED = "The specified page token value has expired and can no longer be included in your request."


def error(code: str, message: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "innerError": {"date": "2026-11-23T12:00:00"}}}


def user(identifier: object = ADA, *, enabled: object = True, kind: object = "Member") -> dict[str, Any]:
    return {"@odata.type": "#microsoft.graph.user", "id": identifier, "accountEnabled": enabled, "userType": kind}


@pytest.mark.parametrize(
    ("operation", "status", "body", "verdict", "reason"),
    [
        (FIND_PERSON, 200, {}, Verdict.DONE, None),
        (INSTALL_FOR_PERSON, 201, {}, Verdict.DONE, None),
        (INSTALL_FOR_PERSON, 409, error("Conflict"), Verdict.DONE, None),
        (FIND_PERSON, 409, {}, Verdict.RETRY, Reason.PRECONDITION),
        (INSTALL_FOR_PERSON, 403, error("Forbidden", POLICY), Verdict.SUPPRESSED, Reason.BLOCKED_BY_POLICY),
        (INSTALL_FOR_TEAM, 403, error("Forbidden", POLICY), Verdict.SUPPRESSED, Reason.BLOCKED_BY_POLICY),
        (INSTALL_FOR_PERSON, 403, error("Forbidden", ROLE), Verdict.FAILED, Reason.GRAPH_PERMISSION_MISSING),
        (
            INSTALL_FOR_PERSON, 403, error("Forbidden", "AAD App Id 'a' is not allowed to manage the Teams App 'b'"),
            Verdict.FAILED, Reason.GRAPH_PERMISSION_MISSING,
        ),
        (LIST_GROUP, 403, error("Authorization_RequestDenied"), Verdict.FAILED, Reason.GRAPH_PERMISSION_MISSING),
        (LIST_GROUP, 403, error("Other", PRIVILEGES), Verdict.FAILED, Reason.GRAPH_PERMISSION_MISSING),
        (READ_MAILBOX, 403, error("ErrorAccessDenied"), Verdict.FAILED, Reason.GRAPH_PERMISSION_MISSING),
        (
            READ_MAILBOX, 403, error("ErrorAccessDenied", "Blocked by tenant configured AccessPolicy settings."),
            Verdict.SUPPRESSED, Reason.BLOCKED_BY_POLICY,
        ),
        (INSTALL_FOR_PERSON, 403, error("UnknownError"), Verdict.RETRY, Reason.NOT_PERMITTED),
        (INSTALL_FOR_PERSON, 403, {}, Verdict.RETRY, Reason.NOT_PERMITTED),
        (FIND_PERSON, 404, error("Request_ResourceNotFound"), Verdict.SUPPRESSED, Reason.UNKNOWN_PERSON),
        (INSTALL_FOR_PERSON, 404, error("NotFound"), Verdict.SUPPRESSED, Reason.UNKNOWN_PERSON),
        (INSTALL_FOR_TEAM, 404, error("NotFound"), Verdict.FAILED, Reason.UNKNOWN_GROUP),
        (LIST_GROUP, 404, {}, Verdict.FAILED, Reason.UNKNOWN_GROUP),
        (
            LIST_GROUP, 400, error("Request_BadRequest", "Invalid object identifier 'x'."),
            Verdict.FAILED, Reason.UNKNOWN_GROUP,
        ),
        (FIND_APP, 404, {}, Verdict.FAILED, Reason.APP_NOT_IN_CATALOGUE),
        (LIST_GROUP, 400, error("Request_UnsupportedQuery"), Verdict.FAILED, Reason.BAD_REQUEST),
        (FIND_PERSON, 401, error("InvalidAuthenticationToken"), Verdict.RETRY, Reason.UNAUTHORIZED),
        (FIND_PERSON, 429, error("TooManyRequests"), Verdict.RETRY, Reason.THROTTLED),
        (FIND_PERSON, 423, {}, Verdict.RETRY, Reason.PRECONDITION),
        (FIND_PERSON, 302, {}, Verdict.FAILED, Reason.BAD_REQUEST),
        *((FIND_PERSON, status, {}, Verdict.RETRY, Reason.NO_ANSWER) for status in (408, 500, 502, 503, 504)),
        *((INSTALL_FOR_PERSON, status, {}, Verdict.UNKNOWN, Reason.NO_ANSWER) for status in (408, 500, 502, 503, 504)),
    ],
)  # fmt: skip
def test_answer_gives_verdict_and_reason(
    operation: Operation, status: int, body: dict[str, Any], verdict: Verdict, reason: Reason | None
) -> None:
    """Answers of Graph."""
    outcome = answers.classify(operation, status, {}, body, NOW)
    assert (outcome.verdict, outcome.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("Directory_ExpiredPageToken", EXPIRED)),
        (400, error("BadRequest", "The skip token is invalid.")),
        (400, error("BadRequest", "Invalid $skiptoken")),
        (410, {}),
    ],
)
def test_expired_cursor_restarts_the_list_and_a_first_page_does_not(status: int, body: dict[str, Any]) -> None:
    """Answers of Graph: pages."""
    expired = answers.classify(LIST_GROUP, status, {}, body, NOW, has_cursor=True)
    assert (expired.verdict, expired.reason) == (Verdict.RETRY, Reason.LIST_EXPIRED)
    first = answers.classify(LIST_GROUP, status, {}, body, NOW)
    assert (first.verdict, first.reason) == (Verdict.FAILED, Reason.BAD_REQUEST)


@pytest.mark.parametrize(
    ("row", "person"),
    [
        (user(ADA.upper()), Account(ADA, enabled=True, guest=False)),
        (user(enabled=False), Account(ADA, enabled=False, guest=False)),
        (user(kind="Guest"), Account(ADA, enabled=True, guest=True)),
        (user(kind=None), Account(ADA, enabled=True, guest=False)),
        (user(enabled=None), None),
        (user(None), None),
        (user("../x"), None),
        ({}, None),
    ],
)
def test_user_object_is_a_person_or_unreadable(row: dict[str, Any], person: Account | None) -> None:
    """Answers of Graph: pages."""
    assert answers.read_person(row) == person


GRAPH = "https://graph.microsoft.us"


@pytest.mark.parametrize(
    ("link", "is_followed"),
    [
        ("https://graph.microsoft.us/v1.0/users?$skiptoken=X'1'", True),
        ("https://GRAPH.microsoft.us/v1.0/users?$skiptoken=1", True),
        ("https://graph.microsoft.us/v1.0/" + "x" * (answers.MAX_CURSOR_CHARS - 32), True),
        ("https://graph.microsoft.us/v1.0/" + "x" * (answers.MAX_CURSOR_CHARS - 31), False),
        ("https://graph.microsoft.com/v1.0/users", False),
        ("http://graph.microsoft.us/v1.0/users", False),
        ("https://graph.microsoft.us:444/v1.0/users", False),
        ("https://graph.microsoft.us@evil.example/v1.0/users", False),
        ("https://evil@graph.microsoft.us/v1.0/users", False),
        ("https://graph.microsoft.us.evil.example/v1.0/users", False),
        ("https://evil.example\\@graph.microsoft.us/v1.0/users", False),
        ("https://graph.microsoft.us/beta/users", False),
        ("https://graph.microsoft.us/v1.0/users\n", False),
        ("https://[graph/v1.0/users", False),
        ("/v1.0/users", False),
        (5, False),
    ],
)
def test_only_a_short_link_to_the_same_host_is_a_cursor(link: object, is_followed: bool) -> None:
    """Answers of Graph: pages."""
    assert answers.is_cursor(link, GRAPH) is is_followed
    page = answers.read_page({"value": [], "@odata.nextLink": link}, GRAPH, cursor="", with_guests=True)
    refused = Outcome(Verdict.FAILED, Reason.HOST_NOT_ALLOWED)
    assert page == (Page([], {}, str(link)) if is_followed else refused)


def test_link_to_the_same_page_is_not_followed() -> None:
    """Answers of Graph: pages."""
    link = f"{GRAPH}/v1.0/users?$skiptoken=1"
    page = answers.read_page({"value": [], "@odata.nextLink": link}, GRAPH, cursor=link, with_guests=True)
    assert page == Outcome(Verdict.FAILED, Reason.HOST_NOT_ALLOWED)


def test_page_counts_who_is_left_out() -> None:
    """Answers of Graph: pages."""
    rows = [
        user(),
        user(BEN, kind="Guest"),
        user(enabled=False),
        user(enabled=False, kind="Guest"),
        user(None, enabled=None, kind=None),
        {"@odata.type": "#microsoft.graph.group", "id": GROUP},
        "no row",
    ]
    ada, ben = Account(ADA, enabled=True, guest=False), Account(BEN, enabled=True, guest=True)
    disabled = {Reason.ACCOUNT_DISABLED: 2, Reason.NOT_READABLE: 1}
    with_guests = answers.read_page({"value": rows}, GRAPH, cursor="", with_guests=True)
    assert with_guests == Page([ada, ben], disabled, "")
    without = answers.read_page({"value": rows}, GRAPH, cursor="", with_guests=False)
    assert without == Page([ada], disabled | {Reason.GUEST: 1}, "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["value", "responses", "id", "status", "headers", "body", "error", "code", "message", "language",
                 "timeZone", "locale", "@odata.nextLink", "Retry-After"]
            ),
            inner,
        )
    ),
)  # fmt: skip
operations = st.sampled_from([FIND_PERSON, LIST_GROUP, FIND_APP, READ_MAILBOX, INSTALL_FOR_PERSON])


@given(
    operations, st.integers(100, 599), st.dictionaries(st.sampled_from(["error", "value", "responses"]), json_values)
)
def test_any_answer_is_read(operation: Operation, status: int, body: dict[str, Any]) -> None:
    outcome = answers.classify(operation, status, CIMultiDict(), body, NOW, has_cursor=True)
    assert outcome.verdict in (Verdict.DONE, Verdict.RETRY, Verdict.UNKNOWN, Verdict.SUPPRESSED, Verdict.FAILED)
    assert (outcome.verdict is Verdict.DONE) == (
        200 <= status < 300 or (status == 409 and operation is INSTALL_FOR_PERSON)
    )
    readers: list[Callable[[Outcome], object]] = [
        answers.read_found_person, answers.read_catalogue_id, answers.read_is_installed, answers.read_mailbox,
    ]  # fmt: skip
    for read in readers:
        read(outcome)
    answers.read_page(body, GRAPH, cursor="", with_guests=True)
    assert len(answers.read_batch(operation, body, 3, NOW)) == 3


@dataclass
class Answer:
    """What the double of Graph answers once, or always."""

    body: object = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    """A request that the double got: its path and query as they were sent."""

    method: str
    path: str
    headers: CIMultiDict[str]
    body: Any


class GraphDouble:
    """Graph as a server: for each path (without its query), answers in turn, of which the last one stays.

    A batch is answered by its parts, in reverse. What is not known is 404.
    """

    def __init__(self) -> None:
        self.url = ""
        self.answers: dict[str, list[Answer | Callable[[str], Answer]]] = {}
        self.asked: list[Asked] = []
        #: What the token service was asked for: scope and authority.
        self.token_requests: list[tuple[str, str]] = []
        #: Tokens that are refused.
        self.refused_tokens: set[str] = set()

    def on(self, path: str, *found: Answer | Callable[[str], Answer]) -> None:
        self.answers[f"/v1.0{path}"] = list(found)

    def paths(self) -> list[str]:
        return [each.path.removeprefix("/v1.0") for each in self.asked]

    def request_token(self, _: Settings, scope: str, authority: str) -> dict[str, Any]:
        self.token_requests.append((scope, authority))
        return {"access_token": f"token-{len(self.token_requests)}", "expires_in": 3600}

    def answer_of(self, path: str) -> Answer:
        found = self.answers.get(path.split("?")[0])
        if not found:
            return Answer(error("Request_ResourceNotFound"), 404)
        answer = found.pop(0) if len(found) > 1 else found[0]
        return answer if isinstance(answer, Answer) else answer(path)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        text = await request.text()
        body: Any = json.loads(text) if text else None
        self.asked.append(Asked(request.method, request.raw_path, CIMultiDict(request.headers), body))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token in self.refused_tokens:
            return web.json_response(error("InvalidAuthenticationToken"), status=401)
        answer = self.answer_of(request.raw_path)
        if request.path == "/v1.0/$batch" and answer.status == 404:
            parts = []
            for part in body["requests"]:
                found = self.answer_of(f"/v1.0{part['url']}")
                parts.append(
                    {"id": part["id"], "status": found.status, "headers": dict(found.headers), "body": found.body}
                )
            answer = Answer({"responses": parts[::-1]})
        return web.json_response(answer.body, status=answer.status, headers=answer.headers)


class Lane:
    """A rate limiter that records who waited for a slot and how long it was paused."""

    def __init__(self) -> None:
        self.waited: list[tuple[str, str | None, LaneKind]] = []
        self.paused: list[tuple[str, float]] = []
        self.later = 0.0

    async def wait_for_slot(self, tenant: str, conversation: str | None, *, kind: LaneKind) -> None:
        if self.later:
            raise RetryLater(self.later)
        self.waited.append((tenant, conversation, kind))

    async def pause_tenant(self, tenant: str, seconds: float) -> None:
        self.paused.append((tenant, seconds))


@dataclass
class Client:
    """A client of the double, its lanes, and the `seconds` that have passed."""

    graph: Graph
    lanes: dict[TenantLaneKind, Any]
    seconds: float = 0.0


@pytest.fixture
async def double(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GraphDouble]:
    running = GraphDouble()
    runner = web.ServerRunner(web.Server(running.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    running.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setattr("shared.teams.tokens.request_token", running.request_token)
    running.on(
        "/appCatalogs/teamsApps",
        Answer({"value": [{"id": "store", "distributionMethod": "store"},
                          {"id": CATALOGUE, "distributionMethod": "organization"}]}),
    )  # fmt: skip
    yield running
    await runner.cleanup()


def settings_for(double: GraphDouble, **more: str) -> Settings:
    bot = {
        "MicrosoftAppType": "SingleTenant",
        "MicrosoftAppId": APP,
        "MicrosoftAppPassword": "a-secret",
        "MicrosoftAppTenantId": "home",
        "ToChannelFromBotLoginUrl": LOGIN,
        "HERALD_ALLOWED_TENANTS": f"{TENANT},{OTHER_TENANT}",
        "HERALD_GRAPH_URL": double.url,
        "HERALD_TEAMS_APP_ID": MANIFEST,
    }
    return load_settings({name: value for name, value in (bot | more).items() if value})


@pytest.fixture
async def new_client(double: GraphDouble) -> AsyncIterator[Callable[..., Client]]:
    async with aiohttp.ClientSession() as session:

        def create(**more: str) -> Client:
            lanes: dict[TenantLaneKind, Any] = {
                TenantLaneKind.GRAPH_INSTALL: Lane(), TenantLaneKind.GRAPH_CHECK: Lane(),
            }  # fmt: skip
            created: list[Client] = []
            graph = Graph(session, settings_for(double, **more), lambda: NOW, lambda: created[0].seconds, lanes)
            created.append(Client(graph, lanes))
            return created[0]

        yield create


@pytest.fixture
def client(new_client: Callable[..., Client]) -> Client:
    return new_client()


SELECT = "$select=id,accountEnabled,userType"
ADAS_ACCOUNT = Account(ADA, enabled=True, guest=False)


async def test_token_is_for_graph_and_from_the_tenant_of_the_recipient(double: GraphDouble, client: Client) -> None:
    double.on(f"/users/{ADA}", Answer(user()))
    await asyncio.gather(*(client.graph.person(tenant, ADA) for tenant in (TENANT, TENANT, OTHER_TENANT)))
    await client.graph.person(TENANT, ADA)
    scope = f"{double.url}/.default"
    host = "https://login.microsoftonline.us"
    assert sorted(double.token_requests) == sorted([(scope, f"{host}/{TENANT}"), (scope, f"{host}/{OTHER_TENANT}")])
    assert {each.headers["Authorization"] for each in double.asked} == {"Bearer token-1", "Bearer token-2"}


async def test_refused_token_is_replaced_once(double: GraphDouble, client: Client) -> None:
    double.on(f"/users/{ADA}", Answer(user()))
    double.refused_tokens = {"token-1"}
    assert await client.graph.person(TENANT, ADA) == ADAS_ACCOUNT
    assert [each.headers["Authorization"] for each in double.asked] == ["Bearer token-1", "Bearer token-2"]
    double.refused_tokens = {"token-2", "token-3"}
    refused = await client.graph.person(TENANT, ADA)
    assert refused == Outcome(Verdict.RETRY, Reason.UNAUTHORIZED, 60.0)
    assert len(double.asked) == 4
    assert await client.graph.person(TENANT, ADA) == refused  # nothing is asked until then
    assert len(double.asked) == 4
    client.seconds = 60.0
    assert await client.graph.person(TENANT, ADA) == ADAS_ACCOUNT  # with token-4
    assert len(double.asked) == 6


async def test_token_of_a_managed_identity_is_used_for_its_home_tenant_only(
    double: GraphDouble, new_client: Callable[..., Client]
) -> None:
    double.on(f"/users/{ADA}", Answer(user()))
    client = new_client(
        MicrosoftAppType="UserAssignedMSI", MicrosoftAppPassword="", MicrosoftAppTenantId=TENANT.upper()
    )
    assert await client.graph.person(TENANT, ADA) == ADAS_ACCOUNT
    other = await client.graph.person(OTHER_TENANT, ADA)
    assert other == Outcome(Verdict.FAILED, Reason.GRAPH_PERMISSION_MISSING)
    assert len(double.asked) == 1


async def test_nothing_is_asked_for_a_tenant_that_is_not_allowed_nor_beyond_loopback_without_an_app_id(
    double: GraphDouble, client: Client, new_client: Callable[..., Client]
) -> None:
    assert await client.graph.person("x/../y", ADA) == Outcome(Verdict.FAILED, Reason.NOT_PERMITTED)
    development = {"MicrosoftAppId": "", "AZURE_FUNCTIONS_ENVIRONMENT": "Development"}
    far = new_client(**development, HERALD_GRAPH_URL="")
    assert await far.graph.person(TENANT, ADA) == Outcome(Verdict.FAILED, Reason.HOST_NOT_ALLOWED)
    assert (double.asked, double.token_requests) == ([], [])
    double.on(f"/users/{ADA}", Answer(user()))
    assert await new_client(**development).graph.person(TENANT, ADA) == ADAS_ACCOUNT
    assert "Authorization" not in double.asked[0].headers


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (ADA, f"/users/{ADA}"),
        ("Ada@Contoso.com ", "/users/ada%40contoso.com"),
        ("o'neil@contoso.com", "/users/o%27neil%40contoso.com"),
        ("ada_fabrikam.com#EXT#@contoso.com", "/users/ada_fabrikam.com%23ext%23%40contoso.com"),
        ("$o'a@contoso.com", "/users('%24o%27%27a%40contoso.com')"),
        ("a/?&%@contoso.com", "/users/a%2F%3F%26%25%40contoso.com"),
    ],
)
async def test_name_of_a_person_is_escaped(double: GraphDouble, client: Client, name: str, path: str) -> None:
    """Answers of Graph."""
    double.on(path, Answer(user()))
    assert await client.graph.person(TENANT, name) == ADAS_ACCOUNT
    assert double.paths() == [f"{path}?{SELECT}"]


async def test_person_is_found_by_mail_if_nobody_has_the_upn(double: GraphDouble, client: Client) -> None:
    double.on("/users", Answer({"value": [user()]}))
    assert await client.graph.person(TENANT, "o'neil@contoso.com") == ADAS_ACCOUNT
    expected = f"/users?$filter=mail%20eq%20%27o%27%27neil%40contoso.com%27&{SELECT}"
    assert double.paths() == [f"/users/o%27neil%40contoso.com?{SELECT}", expected]


@pytest.mark.parametrize("rows", [[], [user(), user(BEN)]], ids=["nobody", "several"])
async def test_nobody_or_several_of_a_mail_address_are_an_unknown_person(
    double: GraphDouble, client: Client, rows: list[object]
) -> None:
    double.on("/users", Answer({"value": rows}))
    assert await client.graph.person(TENANT, "a@b.c") == answers.unknown_person()


@pytest.mark.parametrize("name", ["ada", "", "..", "a\n@b.c", "a" * 318 + "@b.c"])
async def test_text_that_is_no_name_is_not_asked_for(double: GraphDouble, client: Client, name: str) -> None:
    assert await client.graph.person(TENANT, name) == answers.unknown_person()
    assert double.asked == []


async def test_many_people_are_found_in_batches_of_20_and_none_of_them_twice(
    double: GraphDouble, client: Client
) -> None:
    """Answers of Graph."""
    ids = {f"p{number}@contoso.com": f"{number:08}-0000-0000-0000-000000000000" for number in range(45)}
    for name, identifier in ids.items():
        double.on(f"/users/{name.replace('@', '%40')}", Answer(user(identifier)))
    known: KnownPeople = {}
    names = [*ids, "P0@contoso.com", "p1@CONTOSO.com"]
    found = await client.graph.people(TENANT, names, known)
    assert found == {name: Account(ids[name.lower()], enabled=True, guest=False) for name in names}
    assert double.paths() == ["/$batch"] * 3
    assert [len(each.body["requests"]) for each in double.asked] == [20, 20, 5]
    assert double.asked[0].body["requests"][0] == {
        "id": "0", "method": "GET", "url": f"/users/p0%40contoso.com?{SELECT}",
    }  # fmt: skip
    assert await client.graph.people(TENANT, names, known) == found
    assert len(double.asked) == 3


async def test_part_of_a_batch_has_its_own_result(double: GraphDouble, client: Client) -> None:
    """Answers of Graph."""
    double.on("/users/found%40b.c", Answer(user()))
    double.on("/users/throttled%40b.c", Answer(error("TooManyRequests"), 429, {"retry-after": "2.5"}))
    double.on("/users/forbidden%40b.c", Answer(error("Authorization_RequestDenied", PRIVILEGES), 403))
    double.on("/users/down%40b.c", Answer(None, 503))
    known: KnownPeople = {}
    names = ["found@b.c", "throttled@b.c", "forbidden@b.c", "down@b.c", "missing@b.c"]
    found = await client.graph.people(TENANT, names, known)
    assert found["found@b.c"] == ADAS_ACCOUNT
    assert found["throttled@b.c"] == Outcome(Verdict.RETRY, Reason.THROTTLED, 2.5)
    assert found["forbidden@b.c"] == Outcome(Verdict.FAILED, Reason.GRAPH_PERMISSION_MISSING)
    assert found["down@b.c"] == Outcome(Verdict.RETRY, Reason.NO_ANSWER)
    assert known == {"found@b.c": ADAS_ACCOUNT}


async def test_batch_without_a_part_asks_for_it_again(double: GraphDouble, client: Client) -> None:
    """Answers of Graph."""
    part = {"id": "1", "status": 200, "body": user(BEN)}
    double.on("/$batch", Answer({"responses": [part, {"id": "7", "status": 200}, {"id": "1e3"}, None]}))
    double.on("/users/a%40b.c", Answer(user()))
    known: KnownPeople = {}
    found = await client.graph.people(TENANT, ["a@b.c", "b@b.c"], known)
    assert found == {"a@b.c": answers.UNUSABLE, "b@b.c": Account(BEN, enabled=True, guest=False)}
    assert (await client.graph.people(TENANT, ["a@b.c", "b@b.c"], known))["a@b.c"] == ADAS_ACCOUNT
    assert double.paths() == ["/$batch", f"/users/a%40b.c?{SELECT}"]


MEMBERS = f"/groups/{GROUP}/transitiveMembers/microsoft.graph.user"


async def test_members_of_a_group_are_listed_in_pages(double: GraphDouble, client: Client) -> None:
    link = f"{double.url}/v1.0{MEMBERS}?$top=999&$skiptoken=RFNwd'%231"
    double.on(MEMBERS, Answer({"value": [user()], "@odata.nextLink": link}), Answer({"value": [user(BEN)]}))
    first = await client.graph.group_members(TENANT, GROUP)
    assert first == Page([ADAS_ACCOUNT], {}, link)
    assert await client.graph.group_members(TENANT, GROUP, first.cursor) == Page(
        [Account(BEN, enabled=True, guest=False)], {}, ""
    )
    query = f"{SELECT}&$top=999&$count=true"
    assert double.paths() == [f"{MEMBERS}?{query}", link.removeprefix(f"{double.url}/v1.0")]
    assert {each.headers["ConsistencyLevel"] for each in double.asked} == {"eventual"}


async def test_group_that_cannot_be_cast_is_listed_without_the_cast(double: GraphDouble, client: Client) -> None:
    """Answers of Graph: pages."""
    double.on(MEMBERS, Answer(error("Request_UnsupportedQuery"), 400))
    group = {"@odata.type": "#microsoft.graph.group", "id": GROUP, "displayName": None}
    double.on(f"/groups/{GROUP}/transitiveMembers", Answer({"value": [group, user()]}))
    assert await client.graph.group_members(TENANT, GROUP) == Page([ADAS_ACCOUNT], {}, "")


async def test_another_bad_request_is_not_repeated(double: GraphDouble, client: Client) -> None:
    double.on(MEMBERS, Answer(error("Request_BadRequest"), 400))
    assert await client.graph.group_members(TENANT, GROUP) == Outcome(Verdict.FAILED, Reason.BAD_REQUEST)
    assert len(double.asked) == 1


async def test_cursor_of_another_host_is_not_followed(double: GraphDouble, client: Client) -> None:
    """Answers of Graph: pages."""
    other = double.url.replace("127.0.0.1", "127.0.0.2")
    found = await client.graph.group_members(TENANT, GROUP, f"{other}/v1.0{MEMBERS}?$skiptoken=1")
    assert found == Outcome(Verdict.RETRY, Reason.LIST_EXPIRED)
    assert (double.asked, double.token_requests) == ([], [])


async def test_redirect_is_not_followed(double: GraphDouble, client: Client) -> None:
    double.on("/users", Answer(None, 302, {"Location": f"{double.url}/elsewhere"}))
    assert await client.graph.organisation_members(TENANT) == Outcome(Verdict.FAILED, Reason.BAD_REQUEST)
    assert len(double.asked) == 1


async def test_expired_cursor_is_a_reason_of_its_own(double: GraphDouble, client: Client) -> None:
    """Answers of Graph: pages."""
    double.on("/users", Answer(error("Directory_ExpiredPageToken", EXPIRED), 400))
    found = await client.graph.organisation_members(TENANT, f"{double.url}/v1.0/users?$skiptoken=1")
    assert found == Outcome(Verdict.RETRY, Reason.LIST_EXPIRED)


async def test_organisation_is_listed_without_guests(double: GraphDouble, client: Client) -> None:
    double.on("/users", Answer({"value": [user(), user(BEN, kind="Guest"), user(BEN, enabled=False)]}))
    found = await client.graph.organisation_members(TENANT)
    assert found == Page([ADAS_ACCOUNT], {Reason.GUEST: 1, Reason.ACCOUNT_DISABLED: 1}, "")
    assert double.paths() == [f"/users?{SELECT}&$top=999"]


async def test_answer_without_the_list_is_listed_again(double: GraphDouble, client: Client) -> None:
    """Answers of Graph: pages."""
    double.on("/users", Answer("<html>"))
    assert await client.graph.organisation_members(TENANT) == answers.UNUSABLE


async def test_app_is_installed_by_its_id_in_the_catalogue(double: GraphDouble, client: Client) -> None:
    path = f"/users/{ADA}/teamwork/installedApps"
    double.on(path, Answer(None, 201))
    assert await client.graph.install_for_person(TENANT, ADA) == Installed(already=False)
    lookup = f"$filter=externalId%20eq%20%27{MANIFEST}%27&$select=id,externalId,distributionMethod"
    assert double.paths() == [f"/appCatalogs/teamsApps?{lookup}", path]
    assert double.asked[1].method == "POST"
    assert double.asked[1].headers["Content-Type"] == "application/json"
    assert double.asked[1].body == {"teamsApp@odata.bind": f"{double.url}/v1.0/appCatalogs/teamsApps/{CATALOGUE}"}
    double.on(path, Answer(error("Conflict"), 409))
    assert await client.graph.install_for_person(TENANT, ADA) == Installed(already=True)
    team = f"/teams/{GROUP}/installedApps"
    double.on(team, Answer(None, 201))
    assert await client.graph.install_for_team(TENANT, GROUP) == Installed(already=False)
    assert double.paths()[2:] == [path, team]
    install = client.lanes[TenantLaneKind.GRAPH_INSTALL]
    assert [lane[:2] for lane in install.waited] == [(TENANT, None), (TENANT, None), (TENANT, GROUP)]
    assert install.waited[-1][2] is LaneKind.GRAPH_TEAM
    assert client.lanes[TenantLaneKind.GRAPH_CHECK].waited == []


async def test_install_that_was_not_answered_is_unknown(double: GraphDouble, client: Client) -> None:
    double.on(f"/users/{ADA}/teamwork/installedApps", Answer(None, 504))
    assert await client.graph.install_for_person(TENANT, ADA) == Outcome(Verdict.UNKNOWN, Reason.NO_ANSWER)


@pytest.mark.parametrize("rows", [[{"id": "i"}], []])
async def test_where_the_app_is_installed(double: GraphDouble, client: Client, rows: list[object]) -> None:
    paths = [f"/users/{ADA}/teamwork/installedApps", f"/teams/{GROUP}/installedApps"]
    for path in paths:
        double.on(path, Answer({"value": rows}))
    assert await client.graph.is_installed_for_person(TENANT, ADA) is bool(rows)
    assert await client.graph.is_installed_for_team(TENANT, GROUP) is bool(rows)
    query = f"$expand=teamsApp&$filter=teamsApp/externalId%20eq%20%27{MANIFEST}%27"
    assert double.paths() == [f"{path}?{query}" for path in paths]
    check = client.lanes[TenantLaneKind.GRAPH_CHECK]
    assert [lane[1] for lane in check.waited] == [None, GROUP]
    assert client.lanes[TenantLaneKind.GRAPH_INSTALL].waited == []


async def test_without_the_id_of_the_manifest_nothing_is_installed(
    double: GraphDouble, new_client: Callable[..., Client]
) -> None:
    graph = new_client(HERALD_TEAMS_APP_ID="").graph
    off = Outcome(Verdict.FAILED, Reason.APP_NOT_IN_CATALOGUE)
    assert await graph.install_for_person(TENANT, ADA) == off
    assert await graph.is_installed_for_person(TENANT, ADA) == off
    assert double.asked == []


async def test_catalogue_is_asked_once_an_hour_and_each_minute_without_the_app(
    double: GraphDouble, client: Client
) -> None:
    found = await asyncio.gather(*(client.graph.catalogue_id(TENANT) for _ in range(5)))
    assert found == [CATALOGUE] * 5
    assert len(double.asked) == 1
    double.on("/appCatalogs/teamsApps", Answer({"value": []}))
    client.seconds = 3599.0
    assert await client.graph.catalogue_id(TENANT) == CATALOGUE
    client.seconds = 3600.0
    missing = Outcome(Verdict.FAILED, Reason.APP_NOT_IN_CATALOGUE)
    assert await client.graph.catalogue_id(TENANT) == missing
    client.seconds += 59
    assert await client.graph.catalogue_id(TENANT) == missing
    assert len(double.asked) == 2
    client.seconds += 1
    assert await client.graph.catalogue_id(TENANT) == missing
    assert len(double.asked) == 3


async def test_unknown_person_differs_from_an_app_that_left_the_catalogue(double: GraphDouble, client: Client) -> None:
    """Answers of Graph."""
    install = f"/users/{ADA}/teamwork/installedApps"
    double.on(install, Answer(error("NotFound"), 404))
    assert await client.graph.install_for_person(TENANT, ADA) == answers.unknown_person()
    assert len(double.asked) == 2  # the catalogue has been asked just now
    client.seconds = 60.0
    assert await client.graph.install_for_person(TENANT, ADA) == answers.unknown_person()
    assert double.paths()[2] == install
    assert len(double.asked) == 4

    client.seconds = 120.0
    double.on("/appCatalogs/teamsApps", Answer({"value": [{"id": "new"}]}))
    double.on(install, Answer(error("NotFound"), 404), Answer(None, 201))
    assert await client.graph.install_for_person(TENANT, ADA) == Installed(already=False)
    assert double.asked[-1].body["teamsApp@odata.bind"].endswith("/new")

    client.seconds = 180.0
    double.on("/appCatalogs/teamsApps", Answer({"value": []}))
    double.on(install, Answer(error("NotFound"), 404))
    gone = Outcome(Verdict.FAILED, Reason.APP_NOT_IN_CATALOGUE)
    assert await client.graph.install_for_person(TENANT, ADA) == gone


async def test_policy_is_about_one_person_and_a_missing_permission_about_all(
    double: GraphDouble, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers of Graph."""
    double.on(f"/users/{ADA}/teamwork/installedApps", Answer(error("Forbidden", POLICY), 403))
    double.on(f"/users/{BEN}/teamwork/installedApps", Answer(error("Forbidden", ROLE), 403))
    blocked = Outcome(Verdict.SUPPRESSED, Reason.BLOCKED_BY_POLICY)
    missing = Outcome(Verdict.FAILED, Reason.GRAPH_PERMISSION_MISSING)
    graph = client.graph
    with caplog.at_level(logging.INFO):
        assert [await graph.install_for_person(TENANT, ADA) for _ in range(2)] == [blocked] * 2
        assert [await graph.install_for_person(TENANT, BEN) for _ in range(5)] == [missing] * 5
        assert await graph.is_installed_for_person(TENANT, ADA) == missing  # needs the same permission
        assert len(double.asked) == 1 + 2 + 1
        client.seconds = 60.0
        assert await graph.install_for_person(TENANT, BEN) == missing
        assert len(double.asked) == 5
    permission = "TeamsAppInstallation.ReadWriteSelfForUser.All"
    lines = [record.getMessage() for record in caplog.records if record.name == "shared.teams.graph"]
    assert len(lines) == 2
    assert "policies of the Teams admin center" in lines[0]
    assert f"grant the application permission {permission}" in lines[1]
    assert not [line for line in lines if ADA in line or BEN in line or "token-" in line]


async def test_permission_that_is_granted_is_used_and_its_loss_is_logged_again(
    double: GraphDouble, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    denied = Answer(error("Authorization_RequestDenied", PRIVILEGES), 403)
    double.on("/users", denied, Answer({"value": []}), denied)
    for seconds in (0.0, 60.0, 120.0):
        client.seconds = seconds
        await client.graph.organisation_members(TENANT)
    lines = [record.getMessage() for record in caplog.records if "User.Read.All" in record.getMessage()]
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("header", "shortest", "longest"), [("2.128", 2.128, 2.128), (None, 1.0, 5.0), ("soon", 1.0, 5.0), ("0", 1.0, 1.0)]
)
async def test_throttled_reads_wait_and_installs_go_on(
    double: GraphDouble, client: Client, header: str | None, shortest: float, longest: float
) -> None:
    """Answers of Graph."""
    double.on("/users", Answer(error("TooManyRequests"), 429, {"Retry-After": header} if header else {}))
    double.on(f"/users/{ADA}/teamwork/installedApps", Answer(None, 201))
    assert await client.graph.catalogue_id(TENANT) == CATALOGUE
    throttled = await client.graph.organisation_members(TENANT)
    assert isinstance(throttled, Outcome)
    assert throttled.reason is Reason.THROTTLED
    assert throttled.retry_after is not None
    assert shortest <= throttled.retry_after <= longest
    client.seconds = 0.5
    again = await client.graph.group_members(TENANT, GROUP)
    assert again == Outcome(Verdict.RETRY, Reason.THROTTLED, throttled.retry_after - 0.5)
    assert double.paths()[-1].startswith("/users?")
    assert await client.graph.install_for_person(TENANT, ADA) == Installed(already=False)
    assert not isinstance(await client.graph.person(OTHER_TENANT, "a@b.c"), Account)
    assert double.asked[-1].path.startswith("/v1.0/users?$filter")  # another tenant does not wait
    client.seconds = throttled.retry_after
    await client.graph.group_members(TENANT, GROUP)
    assert MEMBERS in double.asked[-1].path
    assert [lane.paused for lane in client.lanes.values()] == [[], []]


async def test_throttled_install_pauses_the_lane_of_installs_alone(double: GraphDouble, client: Client) -> None:
    """Answers of Graph."""
    double.on(f"/users/{ADA}/teamwork/installedApps", Answer(None, 429, {"Retry-After": "7"}))
    assert await client.graph.install_for_person(TENANT, ADA) == Outcome(Verdict.RETRY, Reason.THROTTLED, 7)
    assert client.lanes[TenantLaneKind.GRAPH_INSTALL].paused == [(TENANT, 7)]
    assert client.lanes[TenantLaneKind.GRAPH_CHECK].paused == []
    double.on(f"/users/{ADA}", Answer(user()))
    assert await client.graph.person(TENANT, ADA) == ADAS_ACCOUNT


async def test_services_have_a_lane_for_installs_and_one_for_checks(
    double: GraphDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage()
    monkeypatch.setattr("shared.services.Table", storage.table)
    services = await open_services(settings_for(double), storage.open(), real_time)
    installs = f"/users/{ADA}/teamwork/installedApps"
    double.on(installs, Answer(None, 201), Answer({"value": []}), Answer(None, 429, {"Retry-After": "30"}))
    try:
        graph = services.graph
        assert await graph.install_for_person(TENANT, ADA) == Installed(already=False)
        assert await graph.is_installed_for_person(TENANT, ADA) is False
        assert await graph.install_for_person(TENANT, ADA) == Outcome(Verdict.RETRY, Reason.THROTTLED, 30)
        paced = await graph.install_for_person(TENANT, BEN)
        assert isinstance(paced, Outcome)
        assert paced.reason is Reason.PACED
        assert services.rate_limiter.paused_seconds(TENANT) == 0
        double.on(installs, Answer({"value": []}))
        assert await graph.is_installed_for_person(TENANT, ADA) is False
    finally:
        await services.close()
    table = storage.open()[1].get_table_client("HeraldRateLanes")
    assert {row["RowKey"] async for row in table.list_entities()} == {"graphInstall", "graphCheck"}


async def test_install_without_a_slot_is_not_sent(double: GraphDouble, client: Client) -> None:
    client.lanes[TenantLaneKind.GRAPH_INSTALL].later = 12.5
    assert await client.graph.install_for_person(TENANT, ADA) == Outcome(Verdict.RETRY, Reason.PACED, 12.5)
    assert [each.method for each in double.asked] == ["GET"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            Answer({"timeZone": "W. Europe Standard Time", "language": {"locale": "de-DE", "displayName": "x"}}),
            MailboxSettings("Europe/Berlin", "de-DE"),
        ),
        (Answer({"timeZone": "Asia/Tokyo", "language": None}), MailboxSettings("Asia/Tokyo")),
        (Answer({"timeZone": "Customized Time Zone", "language": {"locale": "x" * 36}}), MailboxSettings()),
        (Answer({}), MailboxSettings()),
        (Answer(error("MailboxNotEnabledForRESTAPI"), 404), MailboxSettings()),
        (Answer(error("ErrorAccessDenied"), 403), Outcome(Verdict.FAILED, Reason.GRAPH_PERMISSION_MISSING)),
    ],
)
async def test_mailbox_has_a_zone_and_a_locale(
    double: GraphDouble, client: Client, answer: Answer, expected: MailboxSettings | Outcome
) -> None:
    """Answers of Graph."""
    double.on(f"/users/{ADA}/mailboxSettings", answer)
    assert await client.graph.mailbox_settings(TENANT, ADA) == expected
    assert double.paths() == [f"/users/{ADA}/mailboxSettings?$select=timeZone,language"]


async def test_mailbox_that_may_not_be_read_does_not_stop_the_next(double: GraphDouble, client: Client) -> None:
    double.on(f"/users/{ADA}/mailboxSettings", Answer(error("ErrorAccessDenied"), 403))
    double.on(f"/users/{BEN}/mailboxSettings", Answer({"timeZone": "UTC"}))
    await client.graph.mailbox_settings(TENANT, ADA)
    assert isinstance(await client.graph.mailbox_settings(TENANT, BEN), MailboxSettings)


async def test_graph_that_cannot_be_reached(double: GraphDouble, new_client: Callable[..., Client]) -> None:
    graph = new_client(HERALD_GRAPH_URL="http://127.0.0.1:1").graph
    assert await graph.person(TENANT, ADA) == Outcome(Verdict.RETRY, Reason.UNREACHABLE)
