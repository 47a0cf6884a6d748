from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, overload
from urllib.parse import quote

import aiohttp
import orjson
import pytest

from local.fake_teams.api import (
    Behaviour,
    GraphPermission,
    GraphSettings,
    Growth,
    PeopleUpdate,
    PersonView,
    TeamsFault,
    WorldView,
)
from local.fake_teams.client import ControlError, FakeTeams
from local.fake_teams.errors import GraphError
from local.fake_teams.graph import FakeGraph, GraphRequest, catalogue_id
from local.fake_teams.odata import parse_filter
from local.fake_teams.rate_limits import GraphLimits
from local.fake_teams.state import FakeState
from local.fake_teams.token_issuer import BotRegistration
from local.fake_teams.world import Device, Group
from tests.fake_teams.conftest import Bot, FakeApp, Reply, fetch_token

EVENTUAL = {"ConsistencyLevel": "eventual"}
CAST = "transitiveMembers/microsoft.graph.user"


class GraphClient:
    """Calls Graph as an app does, with an access token."""

    def __init__(self, teams: FakeTeams, session: aiohttp.ClientSession, token: str) -> None:
        self.token = token
        self._url = teams.graph_url
        self._session = session
        self.tenant = teams.tenant

    async def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, token: str | None = None
    ) -> Reply:
        """Call a path below `/v1.0/`, or a whole URL."""
        url = path if path.startswith("http") else f"{self._url}/v1.0/{path}"
        data = None if body is None else orjson.dumps(body)
        authorization = {"Authorization": f"Bearer {self.token if token is None else token}", **(headers or {})}
        async with self._session.request(method, url, data=data, headers=authorization) as response:
            text = await response.read()
            parsed = orjson.loads(text) if response.content_type == "application/json" and text else text.decode()
            return Reply(response.status, parsed, dict(response.headers))

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        return await self.call("GET", path, headers=headers)

    async def list_pages(self, path: str, headers: dict[str, str] | None = None) -> list[list[dict[str, Any]]]:
        pages, url = [], path
        while url:
            reply = await self.get(url, headers)
            assert reply.status == 200, reply.body
            pages.append(reply.body["value"])
            url = reply.body.get("@odata.nextLink", "")
        return pages

    async def install(self, path: str, app: str | None = None) -> Reply:
        binding = f"https://graph.microsoft.com/v1.0/appCatalogs/teamsApps/{app or catalogue_id(self.tenant)}"
        return await self.call("POST", f"{path}/installedApps", {"teamsApp@odata.bind": binding})

    async def batch(self, *parts: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the responses by the ids of the parts, which are 0, 1, 2 unless given."""
        requests = [{"id": str(number), "method": "GET", **part} for number, part in enumerate(parts)]
        reply = await self.call("POST", "$batch", {"requests": requests})
        assert reply.status == 200, reply.body
        return {each["id"]: each for each in reply.body["responses"]}


async def open_client(teams: FakeTeams, session: aiohttp.ClientSession, tenant: str | None = None) -> GraphClient:
    url = f"{teams.url}/{tenant or teams.tenant}/oauth2/v2.0/token"
    form = {
        "grant_type": "client_credentials",
        "client_id": teams.app_id,
        "client_secret": teams.settings["MicrosoftAppPassword"],
        "scope": f"{teams.graph_url}/.default",
    }
    async with session.post(url, data=form) as response:
        client = GraphClient(teams, session, (await response.json())["access_token"])
    client.tenant = tenant or teams.tenant
    return client


@pytest.fixture
async def graph(teams: FakeTeams, session: aiohttp.ClientSession) -> GraphClient:
    return await open_client(teams, session)


async def add_person(teams: FakeTeams, **growth: Any) -> PersonView:
    [person] = (await teams.grow(Growth(tenant=teams.tenant, people=1, **growth))).people
    return person


async def permit(teams: FakeTeams, *permissions: GraphPermission, catalogue: bool = True) -> None:
    settings = GraphSettings(tenant=teams.tenant, permissions=list(permissions), catalogue=catalogue)
    await teams.set_graph(settings)


def ids(people: Sequence[dict[str, Any]] | Sequence[PersonView]) -> list[str]:
    return [each["id"] if isinstance(each, dict) else each.object_id for each in people]


async def wait_for_activities(app: FakeApp, count: int) -> None:
    async with asyncio.timeout(10):
        while len(app.activities) < count:
            await asyncio.sleep(0.01)


# Tokens and permissions


async def test_tokens_are_for_graph_or_for_the_connector(
    teams: FakeTeams, session: aiohttp.ClientSession, graph: GraphClient, bot: Bot
) -> None:
    refused = await graph.call("GET", "users", token=bot.token)
    assert (refused.status, refused.code) == (401, "InvalidAuthenticationToken")
    assert set(refused.body["error"]["innerError"]) == {"date", "request-id", "client-request-id"}
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    conversation = (await teams.world()).people[0].conversation
    assert (await Bot(teams, session, graph.token).send(conversation)).status == 401
    assert (await graph.get("users")).status == 200
    await teams.revoke_tokens()
    assert (await graph.get("users")).code == "InvalidAuthenticationToken"
    assert (await graph.call("GET", "users", token="")).status == 401


async def test_token_is_for_the_tenant_of_its_authority(teams: FakeTeams, session: aiohttp.ClientSession) -> None:
    [guest_tenant] = (await teams.grow(Growth(people=2))).tenants[-1:]
    other = await open_client(teams, session, guest_tenant)
    found = (await other.get("users")).body["value"]
    assert ids(found) == ids((await teams.world(guest_tenant)).people)
    assert (await other.get(f"users/{(await teams.world(teams.tenant)).people[0].object_id}")).status == 404
    refused = await fetch_token(teams, session, scope="https://graph.microsoft.com/.default")
    assert refused.body["error"] == "invalid_scope"


ENDPOINTS: list[tuple[str, str, GraphPermission, str]] = [
    ("GET", "users", "User.ReadBasic.All", "Authorization_RequestDenied"),
    ("GET", "users/{person}", "User.ReadBasic.All", "Authorization_RequestDenied"),
    ("GET", "users/{person}", "User.Read.All", "Authorization_RequestDenied"),
    ("GET", "groups/{team}/transitiveMembers", "GroupMember.Read.All", "Authorization_RequestDenied"),
    ("GET", "appCatalogs/teamsApps", "AppCatalog.Read.All", "Forbidden"),
    (
        "GET", "users/{person}/teamwork/installedApps",
        "TeamsAppInstallation.ReadWriteSelfForUser.All", "Forbidden",
    ),
    (
        "POST", "users/{person}/teamwork/installedApps",
        "TeamsAppInstallation.ReadWriteSelfForUser.All", "Forbidden",
    ),
    ("GET", "teams/{team}/installedApps", "TeamsAppInstallation.ReadWriteSelfForTeam.All", "Forbidden"),
    ("POST", "teams/{team}/installedApps", "TeamsAppInstallation.ReadWriteSelfForTeam.All", "Forbidden"),
    ("GET", "users/{person}/mailboxSettings", "MailboxSettings.Read", "ErrorAccessDenied"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "permission", "code"), ENDPOINTS)
async def test_endpoint_needs_its_permission(
    teams: FakeTeams, graph: GraphClient, method: str, path: str, permission: GraphPermission, code: str
) -> None:
    world = await teams.world()
    path = path.format(person=world.people[0].object_id, team=world.teams[0].group_id)
    body = {"teamsApp@odata.bind": f"/appCatalogs/teamsApps/{catalogue_id(teams.tenant)}"} if method == "POST" else None
    await permit(teams)
    refused = await graph.call(method, path, body)
    assert (refused.status, refused.code) == (403, code)
    if code == "Forbidden":
        assert f"'{permission}'" in refused.body["error"]["message"]
    await permit(teams, permission)
    # The app is installed in this world already: 409.
    assert (await graph.call(method, path, body)).status == (409 if method == "POST" else 200)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "me", 400), ("DELETE", "users/x", 400), ("GET", "groups/x/members", 400), ("GET", "users/a/b/c", 400)],
)
async def test_unknown_path_is_refused(graph: GraphClient, method: str, path: str, status: int) -> None:
    refused = await graph.call(method, path)
    assert (refused.status, refused.code) == (status, "BadRequest")


# Users


async def test_person_is_found_by_id_and_upn(teams: FakeTeams, graph: GraphClient) -> None:
    person = await add_person(teams, mail_domain="mail.example", locale="de-DE")
    assert person.mail != person.user_principal_name
    for name in (person.object_id, person.user_principal_name, person.user_principal_name.upper()):
        found = await graph.get(f"users/{name}")
        assert (found.status, found.body["id"]) == (200, person.object_id)
        assert (found.body["mail"], found.body["preferredLanguage"]) == (person.mail, "de-DE")
        assert "accountEnabled" not in found.body
    for unknown in (person.mail, "nobody@example", "person999@x", "0" * 8):
        refused = await graph.get(f"users/{unknown}")
        assert (refused.status, refused.code) == (404, "Request_ResourceNotFound")


async def test_guest_and_disabled_account_are_named_as_such(teams: FakeTeams, graph: GraphClient) -> None:
    guest, disabled = await add_person(teams, guests=True), await add_person(teams, enabled=False)
    assert "#EXT#" in guest.user_principal_name
    query = "?$select=id,userType,accountEnabled"
    first = await graph.get(f"users/{quote(guest.user_principal_name)}{query}")
    second = await graph.get(f"users/{disabled.object_id}{query}")
    assert first.body.pop("@odata.context")
    assert first.body == {"id": guest.object_id, "userType": "Guest", "accountEnabled": True}
    assert (second.body["userType"], second.body["accountEnabled"]) == ("Member", False)
    await teams.change_people(PeopleUpdate(ids=[disabled.object_id], enabled=True))
    assert (await graph.get(f"users/{disabled.object_id}{query}")).body["accountEnabled"] is True


async def test_basic_permission_reads_no_account_state(teams: FakeTeams, graph: GraphClient) -> None:
    await permit(teams, "User.ReadBasic.All")
    person = (await teams.world()).people[0].object_id
    found = (await graph.get(f"users/{person}?$select=id,mail,accountEnabled,userType")).body
    assert (found["id"], found["accountEnabled"], found["userType"]) == (person, None, None)
    assert found["mail"]
    refused = await graph.get("users?$filter=accountEnabled eq true")
    assert (refused.status, refused.code) == (403, "Authorization_RequestDenied")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("$top=1000", "Request_UnsupportedQuery"),
        ("$top=0", "Request_UnsupportedQuery"),
        ("$top=x", "Request_UnsupportedQuery"),
        ("$select=shoeSize", "BadRequest"),
        ("$filter=shoeSize eq 'x'", "BadRequest"),
        ("$filter=accountEnabled", "BadRequest"),
        ("$filter=accountEnabled eq yes", "BadRequest"),
        ("$filter=accountEnabled eq true xor mail eq 'x'", "BadRequest"),
        ("$filter=accountEnabled eq true and ", "BadRequest"),
        ("$filter=userType ne 'Guest'", "Request_UnsupportedQuery"),
        ("$filter=userType ne 'Guest'&$count=true", "Request_UnsupportedQuery"),
        ("$orderby=displayName", "BadRequest"),
        ("$skiptoken=x", "BadRequest"),
        ("$skiptoken=%C3%A4", "BadRequest"),
    ],
)
async def test_query_that_graph_refuses_is_400(graph: GraphClient, query: str, code: str) -> None:
    refused = await graph.get(f"users?{query}")
    assert (refused.status, refused.code) == (400, code)


async def test_users_are_listed_in_pages(teams: FakeTeams, graph: GraphClient) -> None:
    people = [*(await teams.world()).people, *(await teams.grow(Growth(tenant=teams.tenant, people=5))).people]
    pages = await graph.list_pages("users?$top=3&$select=id")
    assert [ids(page) for page in pages] == [ids(people[:3]), ids(people[3:6]), ids(people[6:])]
    assert (await teams.stats()).requests["users"] == {"200": 3}


async def test_page_token_belongs_to_its_query_and_expires(teams: FakeTeams, graph: GraphClient) -> None:
    link = (await graph.get("users?$top=1&$select=id")).body["@odata.nextLink"]
    token = link.rpartition("$skiptoken=")[2]
    assert (await graph.get(f"users?$top=1&$select=mail&$skiptoken={token}")).code == "BadRequest"
    assert (await graph.get(link)).status == 200
    await teams.expire_pages()
    refused = await graph.get(link)
    assert (refused.status, refused.code) == (400, "Directory_ExpiredPageToken")
    assert (await graph.get((await graph.get("users?$top=1")).body["@odata.nextLink"])).status == 200


async def test_users_are_filtered(teams: FakeTeams, graph: GraphClient) -> None:
    members = (await teams.world()).people
    disabled, guest = await add_person(teams, enabled=False), await add_person(teams, guests=True)
    later = await add_person(teams, mail_domain="mail.example")

    async def listed(query: str, *, eventual: bool = False) -> list[str]:
        pages = await graph.list_pages(f"users?$top=2&{query}", EVENTUAL if eventual else None)
        return ids([each for page in pages for each in page])

    assert await listed("$filter=accountEnabled eq true") == ids([*members, guest, later])
    assert await listed("$filter=accountEnabled eq true and userType eq 'Member'") == ids([*members, later])
    assert await listed("$filter=userType ne 'Member'&$count=true", eventual=True) == ids([guest])
    assert await listed("$filter=accountEnabled eq false or userType eq 'guest'") == ids([disabled, guest])
    assert await listed(f"$filter=mail eq '{later.mail.upper()}'") == ids([later])
    both = f"mail eq '{later.user_principal_name}' or userPrincipalName eq '{later.user_principal_name}'"
    assert await listed(f"$filter={both}") == ids([later])
    assert await listed("$filter=mail eq 'o''hara@mail.example'") == []
    counted = await graph.get("users?$top=1&$count=true&$filter=accountEnabled eq true", EVENTUAL)
    assert counted.body["@odata.count"] == 5
    assert "@odata.count" not in (await graph.get("users?$count=true")).body
    assert "@odata.count" not in (await graph.get(counted.body["@odata.nextLink"], EVENTUAL)).body


class CountingPeople(Sequence[int]):
    """A list of 100,000 that counts how often an item is read."""

    reads = 0

    def __len__(self) -> int:
        return 100_000

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        assert isinstance(index, int)
        self.reads += 1
        return index


def test_page_reads_only_its_own_items() -> None:
    state = FakeState(BotRegistration("app", "secret", "tenant"), Behaviour(), Growth())
    sender: Any = None
    server: Any = SimpleNamespace(url="https://graph")
    people = CountingPeople()
    asked = GraphRequest("GET", "users", {"$top": "999"}, False, b"")
    graph = FakeGraph(state, sender, server)
    for page in range(1, 4):
        reply = orjson.loads(graph._page(asked, people, None, lambda item: {"id": item}, "users").body)  # type: ignore[arg-type]
        assert [reply["value"][0]["id"], len(reply["value"])] == [999 * (page - 1), 999]
        assert people.reads == 999 * page
        asked = GraphRequest(
            "GET", "users", {"$top": "999", "$skiptoken": reply["@odata.nextLink"].rpartition("=")[2]}, False, b""
        )


def test_filter_that_ends_too_early_is_refused() -> None:
    getters: dict[str, Any] = {"mail": lambda item: item}
    for text in ("", "mail", "mail eq", "mail eq 'x", "mail eq 'x' mail eq 'y'", "(mail eq 'x')"):
        with pytest.raises(GraphError):
            parse_filter(text, getters)


# Members of groups


async def grow_groups(teams: FakeTeams) -> tuple[list[PersonView], WorldView, WorldView]:
    """Return five people, a group of the last three, and a group of the first three, that group, and a device."""
    people = (await teams.grow(Growth(tenant=teams.tenant, people=5))).people
    inner = await teams.grow(Growth(tenant=teams.tenant, groups=1, member_ids=ids(people[2:])))
    holds = [*ids(people[:3]), inner.groups[0].id]
    outer = await teams.grow(Growth(tenant=teams.tenant, groups=1, member_ids=holds, devices=1))
    return people, inner, outer


async def test_nested_members_are_listed_once_in_pages(teams: FakeTeams, graph: GraphClient) -> None:
    people, inner, outer = await grow_groups(teams)
    group = outer.groups[0].id
    pages = await graph.list_pages(f"groups/{group}/{CAST}?$select=id&$top=2&$count=true", EVENTUAL)
    assert [len(page) for page in pages][:2] == [2, 2]
    assert sorted(ids([each for page in pages for each in page])) == sorted(ids(people))
    assert (await graph.get(f"groups/{group}/{CAST}?$count=true", EVENTUAL)).body["@odata.count"] == 5
    everything = (await graph.get(f"groups/{group.upper()}/transitiveMembers?$select=id,displayName")).body["value"]
    kinds = [each["@odata.type"].rpartition(".")[2] for each in everything]
    assert (kinds.count("user"), kinds.count("group"), kinds.count("device"), len(kinds)) == (5, 1, 1, 7)
    [device] = [each for each in everything if each["@odata.type"] == "#microsoft.graph.device"]
    assert device["id"]
    assert device["displayName"] is None
    groups = await graph.get(f"groups/{group}/transitiveMembers/microsoft.graph.group?$count=true", EVENTUAL)
    assert ids(groups.body["value"]) == [inner.groups[0].id]


def test_groups_that_hold_each_other_are_listed_once() -> None:
    device = Device("device")
    first = Group("t", "1", "First", "security", [device])
    second = Group("t", "2", "Second", "security", [first, device])
    first.members.append(second)
    assert [first.transitive, second.transitive] == [[device, second, first], [first, device, second]]


async def test_members_that_the_app_may_not_read_have_nulls(teams: FakeTeams, graph: GraphClient) -> None:
    person = await add_person(teams, enabled=False)
    group = (await teams.grow(Growth(tenant=teams.tenant, groups=1, member_ids=[person.object_id]))).groups[0].id
    path = f"groups/{group}/{CAST}?$select=id,mail,accountEnabled&$count=true"

    async def read(*permissions: GraphPermission) -> dict[str, Any]:
        await permit(teams, "GroupMember.Read.All", *permissions)
        [member] = (await graph.get(path, EVENTUAL)).body["value"]
        return dict(member)

    unreadable = {"@odata.type": "#microsoft.graph.user", "id": person.object_id, "mail": None, "accountEnabled": None}
    assert await read() == unreadable
    assert await read("User.ReadBasic.All") == {"id": person.object_id, "mail": person.mail, "accountEnabled": None}
    assert await read("User.Read.All") == {"id": person.object_id, "mail": person.mail, "accountEnabled": False}


async def test_members_are_filtered_with_the_header(teams: FakeTeams, graph: GraphClient) -> None:
    people, _, outer = await grow_groups(teams)
    await teams.change_people(PeopleUpdate(ids=[people[0].object_id], enabled=False))
    path = f"groups/{outer.groups[0].id}/{CAST}?$filter=accountEnabled eq true&$count=true"
    reply = await graph.get(path, EVENTUAL)
    assert sorted(ids(reply.body["value"])) == sorted(ids(people[1:]))
    assert reply.body["@odata.count"] == 4
    assert (await graph.get(path)).code == "Request_UnsupportedQuery"


async def test_group_of_a_team_has_its_members(teams: FakeTeams, graph: GraphClient) -> None:
    world = await teams.world()
    reply = await graph.get(f"groups/{world.teams[0].group_id}/{CAST}?$count=true", EVENTUAL)
    assert ids(reply.body["value"]) == ids(world.people)


@pytest.mark.parametrize(
    ("kind", "path", "eventual", "status", "code"),
    [
        ("security", f"{CAST}?$count=true", True, 200, ""),
        ("security", "transitiveMembers/microsoft.graph.device?$count=true", True, 200, ""),
        ("security", f"{CAST}?$count=true", False, 400, "Request_UnsupportedQuery"),
        ("security", CAST, True, 400, "Request_UnsupportedQuery"),
        ("security", "transitiveMembers/microsoft.graph.printer?$count=true", True, 400, "Request_UnsupportedQuery"),
        ("unified", f"{CAST}?$count=true", True, 200, ""),
        ("unified", "transitiveMembers/microsoft.graph.group?$count=true", True, 400, "Request_UnsupportedQuery"),
        ("security", "transitiveMembers?$filter=id eq 'x'&$count=true", True, 400, "Request_UnsupportedQuery"),
    ],
)
async def test_cast_needs_the_header_and_a_type_that_the_group_can_hold(
    teams: FakeTeams, graph: GraphClient, kind: Any, path: str, eventual: bool, status: int, code: str
) -> None:
    group = (await teams.grow(Growth(tenant=teams.tenant, groups=1, group_kind=kind, members=2))).groups[0].id
    reply = await graph.get(f"groups/{group}/{path}", EVENTUAL if eventual else None)
    assert (reply.status, "" if status == 200 else reply.code) == (status, code)


async def test_unknown_group_is_refused(teams: FakeTeams, graph: GraphClient) -> None:
    elsewhere = (await teams.grow(Growth(people=1, groups=1, members=1))).groups[0].id
    for group in ("11111111-1111-4111-8111-111111111111", elsewhere):
        refused = await graph.get(f"groups/{group}/transitiveMembers")
        assert (refused.status, refused.code) == (404, "Request_ResourceNotFound")
    refused = await graph.get("groups/sales/transitiveMembers")
    assert (refused.status, refused.code) == (400, "Request_BadRequest")


async def test_unified_group_holds_people_only(teams: FakeTeams) -> None:
    with pytest.raises(ControlError, match="people only"):
        await teams.grow(Growth(tenant=teams.tenant, groups=1, group_kind="unified", devices=1))


# The catalogue and installations


async def test_catalogue_has_the_app_or_not(teams: FakeTeams, graph: GraphClient) -> None:
    path = f"appCatalogs/teamsApps?$filter=externalId eq '{teams.app_id}'"
    [app] = (await graph.get(path)).body["value"]
    assert (app["id"], app["externalId"]) == (catalogue_id(teams.tenant), teams.app_id)
    assert (await graph.get("appCatalogs/teamsApps?$filter=externalId eq 'another'")).body["value"] == []
    await permit(teams, "AppCatalog.Read.All", catalogue=False)
    assert (await graph.get(path)).body["value"] == []


@pytest.mark.parametrize("owner", ["person", "team"])
async def test_app_is_installed_once(teams: FakeTeams, graph: GraphClient, owner: str) -> None:
    await teams.set_behaviour(Behaviour(enforce_limits=False))
    person = await add_person(teams, installed=False)
    team = (await teams.grow(Growth(tenant=teams.tenant, teams=1, installed=False))).teams[0]
    path = f"users/{person.user_principal_name}/teamwork" if owner == "person" else f"teams/{team.group_id}"
    listing = f"{path}/installedApps?$expand=teamsApp&$filter=teamsApp/externalId eq '{teams.app_id}'"
    assert (await graph.get(listing)).body["value"] == []
    installed = await graph.install(path)
    assert (installed.status, installed.body) == (201, "")
    again = await graph.install(path)
    assert (again.status, again.code) == (409, "Conflict")
    [found] = (await graph.get(listing)).body["value"]
    assert (found["teamsApp"]["id"], bool(found["id"])) == (catalogue_id(teams.tenant), True)
    assert "teamsApp" not in (await graph.get(f"{path}/installedApps")).body["value"][0]
    assert (await graph.get(listing.replace(teams.app_id, "another"))).body["value"] == []
    world = await teams.world()
    assert (world.people[-1] if owner == "person" else world.teams[-1]).installed


@pytest.mark.parametrize(
    ("growth", "app", "status", "code"),
    [
        ({"uses_teams": False}, None, 404, "NotFound"),
        ({"app_blocked": True}, None, 403, "Forbidden"),
        ({}, "11111111-1111-4111-8111-111111111111", 404, "NotFound"),
        ({}, "/", 400, "BadRequest"),
    ],
)
async def test_installation_for_a_person_is_refused(
    teams: FakeTeams, graph: GraphClient, growth: dict[str, Any], app: str | None, status: int, code: str
) -> None:
    person = await add_person(teams, installed=False, **growth)
    path = f"users/{person.object_id}/teamwork"
    refused = await graph.install(path, app)
    assert (refused.status, refused.code) == (status, code)
    if status == 403:
        assert "app permission policy" in refused.body["error"]["message"]
        assert refused.body["error"]["innerError"]["code"] == "AccessDenied"
    assert not (await teams.world()).people[-1].installed
    await teams.change_people(PeopleUpdate(ids=[person.object_id], uses_teams=True, app_blocked=False))
    assert (await graph.install(path)).status == 201


async def test_installation_for_an_unknown_person_or_team_or_without_catalogue_is_404(
    teams: FakeTeams, graph: GraphClient
) -> None:
    group = (await teams.grow(Growth(tenant=teams.tenant, groups=1))).groups[0].id
    for path in ("users/nobody@x/teamwork", "teams/11111111-1111-4111-8111-111111111111", f"teams/{group}"):
        assert (await graph.install(path)).status == 404
    person = await add_person(teams, installed=False)
    await teams.set_graph(GraphSettings(tenant=teams.tenant, catalogue=False))
    assert (await graph.install(f"users/{person.object_id}/teamwork")).code == "NotFound"


@pytest.mark.parametrize(("events", "count"), [("now", 2), ("late", 2), ("twice", 4)])
async def test_installation_posts_its_activities(
    teams: FakeTeams, graph: GraphClient, app: FakeApp, events: Any, count: int
) -> None:
    await teams.set_behaviour(Behaviour(endpoint=app.url, install_events=events, install_event_delay=0.2))
    person = await add_person(teams, installed=False)
    started = time.monotonic()
    assert (await graph.install(f"users/{person.object_id}/teamwork")).status == 201
    await wait_for_activities(app, count)
    if events != "now":
        assert time.monotonic() - started >= 0.2
    assert [each["type"] for each in app.activities] == ["installationUpdate", "conversationUpdate"] * (count // 2)
    assert {each["conversation"]["id"] for each in app.activities} == {person.conversation}
    assert app.activities[0] == app.activities[-2]


async def test_installation_can_stay_without_activities(teams: FakeTeams, graph: GraphClient, app: FakeApp) -> None:
    people = (await teams.grow(Growth(tenant=teams.tenant, people=2, installed=False))).people
    await teams.set_behaviour(Behaviour(endpoint=app.url, install_events="never"))
    await graph.install(f"users/{people[0].object_id}/teamwork")
    await teams.set_behaviour(Behaviour(install_events="now"))
    await graph.install(f"users/{people[1].object_id}/teamwork")
    await wait_for_activities(app, 2)
    assert {each["conversation"]["id"] for each in app.activities} == {people[1].conversation}


async def test_installation_in_a_team_posts_its_activities(teams: FakeTeams, graph: GraphClient, app: FakeApp) -> None:
    await teams.set_behaviour(Behaviour(endpoint=app.url))
    team = (await teams.grow(Growth(tenant=teams.tenant, teams=1, installed=False))).teams[0]
    await graph.install(f"teams/{team.group_id}")
    await wait_for_activities(app, 2)
    assert app.activities[0]["channelData"]["team"]["aadGroupId"] == team.group_id


async def test_reset_cancels_late_activities(teams: FakeTeams, graph: GraphClient, app: FakeApp) -> None:
    await teams.set_behaviour(Behaviour(endpoint=app.url, install_events="late", install_event_delay=0.2))
    await graph.install(f"users/{(await add_person(teams, installed=False)).object_id}/teamwork")
    await teams.reset()
    await asyncio.sleep(0.3)
    assert app.activities == []


# Mailboxes


@pytest.mark.parametrize(
    ("growth", "time_zone"),
    [
        ({}, "W. Europe Standard Time"),
        ({"time_zone": "Asia/Tokyo"}, "Tokyo Standard Time"),
        ({"mailbox_time_zone": "Customized Time Zone"}, "Customized Time Zone"),
        ({"mailbox_time_zone": "Europe/Berlin"}, "Europe/Berlin"),
    ],
)
async def test_mailbox_settings_have_time_zone_and_locale(
    teams: FakeTeams, graph: GraphClient, growth: dict[str, Any], time_zone: str
) -> None:
    person = await add_person(teams, locale="fr-FR", **growth)
    found = (await graph.get(f"users/{person.object_id}/mailboxSettings")).body
    assert (found["timeZone"], found["language"]["locale"]) == (time_zone, "fr-FR")
    selected = (await graph.get(f"users/{person.user_principal_name}/mailboxSettings?$select=timeZone")).body
    assert set(selected) == {"@odata.context", "timeZone"}


async def test_missing_mailbox_or_person_is_404(teams: FakeTeams, graph: GraphClient) -> None:
    person = await add_person(teams, mailbox=False)
    refused = await graph.get(f"users/{person.object_id}/mailboxSettings")
    assert (refused.status, refused.code) == (404, "MailboxNotEnabledForRESTAPI")
    assert (await graph.get("users/nobody@x/mailboxSettings")).code == "ErrorInvalidUser"


# Batches


async def test_parts_of_a_batch_have_their_own_status_headers_and_body(teams: FakeTeams, graph: GraphClient) -> None:
    people = (await teams.world()).people
    await teams.inject(TeamsFault(operation="user", status=429, retry_after=1.5, person=people[1].object_id))
    new = await add_person(teams, installed=False)
    team = (await teams.world()).teams[0].group_id
    parts = await graph.batch(
        {"url": f"/users/{people[0].object_id}?$select=id"},
        {"url": f"users/{people[1].object_id}"},
        {"url": "/users/nobody"},
        {
            "method": "POST",
            "url": f"/users/{new.object_id}/teamwork/installedApps",
            "headers": {"content-type": "application/json"},
            "body": {"teamsApp@odata.bind": f"/appCatalogs/teamsApps/{catalogue_id(teams.tenant)}"},
        },
        {"url": f"/groups/{team}/{CAST}?$count=true&$select=id", "headers": {"consistencylevel": "eventual"}},
        {"url": f"/groups/{team}/{CAST}?$count=true"},
        {"method": "POST", "url": "/$batch"},
    )
    assert {number: part["status"] for number, part in parts.items()} == {
        "0": 200, "1": 429, "2": 404, "3": 201, "4": 200, "5": 400, "6": 400,
    }  # fmt: skip
    assert parts["0"]["body"]["id"] == people[0].object_id
    assert parts["1"]["headers"]["Retry-After"] == "1.5"
    assert parts["1"]["body"]["error"]["code"] == "TooManyRequests"
    assert parts["3"]["body"] is None
    assert len(parts["4"]["body"]["value"]) == 3
    stats = await teams.stats()
    assert (stats.requests["batch"], stats.requests["user"]) == ({"200": 1, "400": 1}, {"200": 1, "429": 1, "404": 1})


async def test_parts_are_not_in_the_order_of_the_requests(teams: FakeTeams, graph: GraphClient) -> None:
    requests = [{"id": f"r{number}", "method": "GET", "url": "/users"} for number in range(20)]
    reply = await graph.call("POST", "%24batch", {"requests": requests})
    returned = [each["id"] for each in reply.body["responses"]]
    assert returned != [each["id"] for each in requests]
    assert sorted(returned) == sorted(each["id"] for each in requests)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"requests": []},
        {"requests": [{"id": str(number), "method": "GET", "url": "/users"} for number in range(21)]},
        {"requests": [{"id": "1", "method": "GET", "url": "/users"}] * 2},
        {"requests": [{"id": 1, "method": "GET", "url": "/users"}]},
        {"requests": [{"id": "1", "method": "POST", "url": "/users", "body": {}}]},
        [],
    ],
)
async def test_invalid_batch_is_refused(graph: GraphClient, body: Any) -> None:
    refused = await graph.call("POST", "$batch", body)
    assert (refused.status, refused.code) == (400, "BadRequest")


# Limits


@pytest.mark.parametrize(
    ("operation", "group", "admitted", "limit"),
    [
        ("installApp", None, 30, "POST installedApps 30/1"),
        ("installedApps", None, 60, "GET installedApps 60/1"),
        ("installAppInTeam", "team", 4, "team 4/1"),
        ("teamInstalledApps", "team", 4, "team 4/1"),
        ("users", None, 100, ""),
    ],
)
def test_limit_of_each_operation(operation: str, group: str | None, admitted: int, limit: str) -> None:
    limits = GraphLimits(Behaviour())
    waits = [limits.admit(operation, "tenant", group, 0.25) for _ in range(100)]
    assert waits == [0.0] * admitted + [1.0] * (100 - admitted)
    assert {each.limit for each in limits.violations} == ({limit} if limit else set())
    assert limits.violation_count == 100 - admitted
    assert limits.admit(operation, "tenant", group, 1.25) == 0
    assert limits.admit(operation, "another", "other team" if group else None, 0.5) == 0
    assert limits.peaks[operation] == {"tenant": 100, "another": 1}


def test_people_and_teams_share_the_limit_of_a_tenant() -> None:
    limits = GraphLimits(Behaviour())
    assert [limits.admit("installApp", "t", None, 0.0) for _ in range(29)] == [0] * 29
    assert [limits.admit("installAppInTeam", "t", f"team {number}", 0.0) > 0 for number in range(2)] == [False, True]


def test_teams_in_all_has_a_limit() -> None:
    limits = GraphLimits(Behaviour())
    assert [limits.admit("catalogue", "t", None, 0.0) for _ in range(15_001)][-1] == 10
    limits = GraphLimits(Behaviour(enforce_limits=False))
    assert {limits.admit("installApp", "t", None, 0.0) for _ in range(40)} == {0}
    assert limits.violation_count == 10


@pytest.mark.parametrize(("form", "pattern"), [("whole", "1"), ("fractional", r"[01]\.\d{3}"), ("missing", None)])
async def test_request_over_a_limit_is_429(
    teams: FakeTeams, graph: GraphClient, form: Any, pattern: str | None
) -> None:
    await teams.set_behaviour(Behaviour(graph_retry_after=form))
    team = (await teams.world()).teams[0].group_id
    parts = await graph.batch(*[{"url": f"/teams/{team}/installedApps"}] * 5)
    [refused] = [part for part in parts.values() if part["status"] != 200]
    assert (refused["status"], refused["body"]["error"]["code"]) == (429, "TooManyRequests")
    given = refused["headers"].get("Retry-After")
    assert given is None if pattern is None else re.fullmatch(pattern, given)
    stats = await teams.stats()
    assert (stats.graph_violation_count, stats.graph_violations[0].conversation) == (1, team)
    assert stats.graph_peaks["teamInstalledApps"] == {teams.tenant: 5}
    assert stats.violation_count == 0


# Faults


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (TeamsFault(operation="user", status=429, retry_after=2.128), "TooManyRequests"),
        (TeamsFault(operation="user", status=500), "InternalServerError"),
        (TeamsFault(operation="user", status=503), "ServiceUnavailable"),
        (TeamsFault(operation="user", status=504), "GatewayTimeout"),
        (TeamsFault(operation="user", status=401), "InvalidAuthenticationToken"),
        (TeamsFault(operation="user", status=403, code="Authorization_RequestDenied"), "Authorization_RequestDenied"),
    ],
)
async def test_fault_has_the_error_format_of_graph(
    teams: FakeTeams, graph: GraphClient, fault: TeamsFault, code: str
) -> None:
    await teams.inject(fault)
    refused = await graph.get(f"users/{(await teams.world()).people[0].object_id}")
    assert (refused.status, refused.code) == (fault.status, code)
    assert refused.body["error"]["innerError"]["request-id"]
    assert refused.headers.get("Retry-After") == (None if fault.retry_after is None else str(fault.retry_after))


async def test_fault_applies_to_its_person_group_and_tenant(teams: FakeTeams, graph: GraphClient) -> None:
    first, second = (await teams.world()).people[:2]
    groups = (await teams.grow(Growth(tenant=teams.tenant, groups=2, members=1))).groups
    await teams.inject(
        TeamsFault(operation="user", status=500, person=first.object_id),
        TeamsFault(operation="groupMembers", status=503, group=groups[0].id, count=1),
        TeamsFault(operation="users", status=500, tenant="another"),
        TeamsFault(status=500),  # the Bot Connector only
    )
    assert (await graph.get(f"users/{first.user_principal_name}")).status == 500
    assert (await graph.get(f"users/{second.object_id}")).status == 200
    for group, status in ((groups[1], 200), (groups[0], 503), (groups[0], 200)):
        assert (await graph.get(f"groups/{group.id}/transitiveMembers")).status == status
    assert (await graph.get("users")).status == 200


async def test_answer_can_be_lost_after_the_installation(teams: FakeTeams, graph: GraphClient) -> None:
    person = await add_person(teams, installed=False)
    path = f"users/{person.object_id}/teamwork"
    await teams.inject(
        TeamsFault(operation="installApp", drop=True, count=1),
        TeamsFault(operation="installApp", drop=True, accept=True, count=1),
    )
    for installed in (False, True):
        with pytest.raises(aiohttp.ClientError):
            await graph.install(path)
        assert (await teams.world()).people[-1].installed is installed
    assert (await graph.install(path)).status == 409
    assert (await teams.stats()).requests["installApp"] == {"dropped": 2, "409": 1}


async def test_part_that_drops_the_connection_drops_the_batch(teams: FakeTeams, graph: GraphClient) -> None:
    first, second = (await teams.world()).people[:2]
    await teams.inject(TeamsFault(operation="user", drop=True, person=second.object_id, count=1))
    parts = [{"url": f"/users/{person.object_id}"} for person in (first, second)]
    with pytest.raises(aiohttp.ClientError):
        await graph.batch(*parts)
    assert {part["status"] for part in (await graph.batch(*parts)).values()} == {200}
    assert (await teams.stats()).requests["batch"] == {"dropped": 1, "200": 1}


async def test_delay_and_latency_are_before_the_answer(teams: FakeTeams, graph: GraphClient) -> None:
    await teams.set_behaviour(Behaviour(graph_latency=0.1))
    await teams.inject(TeamsFault(operation="users", delay=0.1))
    started = time.monotonic()
    assert (await graph.get("users")).status == 200
    assert time.monotonic() - started >= 0.2


async def test_settings_of_an_unknown_tenant_are_refused(teams: FakeTeams) -> None:
    with pytest.raises(ControlError, match="no tenant"):
        await teams.set_graph(GraphSettings(tenant="nowhere"))
    with pytest.raises(ControlError):
        await teams.change_people(PeopleUpdate(ids=["nobody"], enabled=False))
